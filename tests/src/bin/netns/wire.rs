//! What crosses the bridge: every frame, looked through for a text that must not be seen.
//!
//! Frames come in order, some time after they crossed. Whoever asks what was seen sends a frame of
//! its own first, and waits for it: all before it has been looked at then.

use std::{
    io::Read,
    net::UdpSocket,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

use super::ground::{Namespace, enter};

/// The text; clients put it into what they send.
pub(crate) const SECRET: &str = "no-plain-text-may-cross-7b1f";

/// Bytes of a frame that are looked through: requests are small, and what is large hides nothing.
const LOOK_MAX: usize = 1024;
/// Sightings of marks that are kept until somebody waits for one.
const MARKS_MAX: usize = 64;
/// What a frame of the tap's own begins with.
const MARK: &str = "outrigger-tap-mark";

/// A tap on the node's bridge, until dropped.
#[derive(Debug)]
pub(crate) struct Tap {
    counts: Arc<Counts>,
    marks: mpsc::Receiver<u64>,
    marking: PathBuf,
}

#[derive(Debug, Default)]
struct Counts {
    plain: AtomicU64,
    records: AtomicU64,
    /// The mark that is waited for.
    wanted: AtomicU64,
    ended: AtomicBool,
}

impl Tap {
    /// Marks are sent from `marking`, a pod outside the mesh.
    pub(crate) fn start(node: &Namespace, marking: &Namespace) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (mark, marks) = mpsc::sync_channel(MARKS_MAX);
        let (path, shared) = (node.path(), Arc::clone(&counts));
        let (report, started) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let socket = open(&path);
            let failed = socket.as_ref().err().map(ToString::to_string);
            report.send(failed).ok();
            if let Ok(socket) = socket {
                listen(socket, &shared, &mark);
            }
        });
        match started.recv_timeout(Duration::from_secs(10))? {
            None => Ok(Self {
                counts,
                marks,
                marking: marking.path(),
            }),
            Some(error) => anyhow::bail!("no tap: {error}"),
        }
    }

    /// Frames with the text, and frames that are TLS application data, so far.
    pub(crate) fn seen(&self) -> anyhow::Result<(u64, u64)> {
        let number = self.counts.wanted.fetch_add(1, Ordering::SeqCst) + 1;
        let marking = self.marking.clone();
        let sending = thread::spawn(move || {
            enter(&marking)?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(format!("{MARK}{number:08}").as_bytes(), "10.77.0.1:9")?;
            anyhow::Ok(())
        });
        sending.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        // A mark is seen on several interfaces: those of an earlier one come before.
        loop {
            let waited = self.marks.recv_timeout(Duration::from_secs(60));
            if waited.context("the tap does not come to an end")? == number {
                break;
            }
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ok((of(&self.counts.plain), of(&self.counts.records)))
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

fn listen(mut socket: Socket, counts: &Counts, mark: &mpsc::SyncSender<u64>) {
    let mut frame = vec![0; 256 * 1024];
    while !counts.ended.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut frame) else {
            continue;
        };
        let frame = &frame[..length.min(LOOK_MAX)];
        let has = |wanted: &[u8]| frame.windows(wanted.len()).any(|part| part == wanted);
        if has(SECRET.as_bytes()) {
            counts.plain.fetch_add(1, Ordering::Relaxed);
        }
        if has(&[0x17, 3, 3]) {
            counts.records.fetch_add(1, Ordering::Relaxed);
        }
        if has(MARK.as_bytes()) {
            let wanted = counts.wanted.load(Ordering::SeqCst);
            if has(format!("{MARK}{wanted:08}").as_bytes()) {
                // Full: this one was seen before, on another interface.
                mark.try_send(wanted).ok();
            }
        }
    }
}
