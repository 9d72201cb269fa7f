//! What crosses the bridge: every frame, looked through for a text that must not be seen.

use std::{
    io::Read,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::ground::{Namespace, enter};

/// The text; clients put it into what they send.
pub(crate) const SECRET: &str = "no-plain-text-may-cross-7b1f";

/// A tap on the node's bridge, until dropped.
#[derive(Debug)]
pub(crate) struct Tap {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    plain: AtomicU64,
    records: AtomicU64,
    ended: AtomicBool,
}

impl Tap {
    pub(crate) fn start(node: &Namespace) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (path, shared) = (node.path(), Arc::clone(&counts));
        let (report, started) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let socket = open(&path);
            let failed = socket.as_ref().err().map(ToString::to_string);
            report.send(failed).ok();
            if let Ok(socket) = socket {
                listen(socket, &shared);
            }
        });
        match started.recv_timeout(Duration::from_secs(10))? {
            None => Ok(Self { counts }),
            Some(error) => anyhow::bail!("no tap: {error}"),
        }
    }

    /// Frames with the text, and frames that are TLS application data, so far.
    pub(crate) fn seen(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.counts.plain), of(&self.counts.records))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.counts.ended.store(true, Ordering::Relaxed);
    }
}

fn open(path: &Path) -> anyhow::Result<Socket> {
    /// `ETH_P_ALL`, in network order.
    const ALL: u16 = 3;
    enter(path)?;
    let protocol = Protocol::from(i32::from(ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), 64 << 20)?;
    Ok(socket)
}

fn listen(mut socket: Socket, counts: &Counts) {
    let mut frame = vec![0; 256 * 1024];
    while !counts.ended.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut frame) else {
            continue;
        };
        let frame = &frame[..length];
        let has = |wanted: &[u8]| frame.windows(wanted.len()).any(|part| part == wanted);
        if has(SECRET.as_bytes()) {
            counts.plain.fetch_add(1, Ordering::Relaxed);
        }
        if has(&[0x17, 3, 3]) {
            counts.records.fetch_add(1, Ordering::Relaxed);
        }
    }
}
