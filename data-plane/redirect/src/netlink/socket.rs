//! The netlink socket to nf_tables: one transaction or one list at a time.

use std::{collections::BTreeSet, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
        socket_with, sockopt,
    },
};

use super::message::{Kind, Message, Reply, batch, flags, replies};

/// The kernel answers inside the system call; this only bounds a kernel that does not.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest datagram of a dump: the kernel fills what it is offered, up to 32 KiB.
const DATAGRAM_MAX: usize = 64 * 1024;
/// Acknowledgements repeat nothing but a header, 36 bytes each and an skb; twice the default is
/// room for the largest transaction.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// How often a list is asked for again because the rules changed under it.
const LISTS_MAX: usize = 5;

/// Where it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No such socket.
    Socket(Errno),
    /// Sending or receiving.
    Exchange(Errno),
    /// The kernel refused one message of a transaction (the first, if more), or the whole (`None`).
    Refused {
        what: Option<String>,
        kind: Option<Kind>,
        errno: Errno,
    },
}

/// An open socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open() -> Result<Self, Failure> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )
        .map_err(Failure::Socket)?;
        let bound = sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_MAX));
        bound.map_err(Failure::Socket)?;
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).map_err(Failure::Socket)?;
        sockopt::set_socket_send_buffer_size(&socket, RECEIVE_BUFFER).map_err(Failure::Socket)?;
        Ok(Self(socket))
    }

    /// All messages come into force, or none.
    pub(crate) fn commit(&self, messages: &[Message]) -> Result<(), Failure> {
        self.send(&batch(messages))?;
        let mut open: BTreeSet<u32> = (1..).take(messages.len()).collect();
        let mut buffer = vec![0; DATAGRAM_MAX];
        while !open.is_empty() {
            let datagram = self.receive(&mut buffer)?;
            for reply in replies(datagram) {
                let Some(errno) = reply.errno().filter(|_| reply.kind == Reply::ERROR) else {
                    continue;
                };
                if errno == 0 {
                    open.remove(&reply.sequence);
                    continue;
                }
                let index = usize::try_from(reply.sequence).ok();
                let message = index.and_then(|index| messages.get(index.checked_sub(1)?));
                return Err(Failure::Refused {
                    what: message.map(|message| message.what.clone()),
                    kind: message.map(|message| message.kind),
                    errno: Errno::from_raw_os_error(errno),
                });
            }
        }
        Ok(())
    }

    /// The attributes of every object that `request` lists.
    pub(crate) fn list(&self, request: &Message) -> Result<Vec<Vec<u8>>, Failure> {
        for _ in 0..LISTS_MAX {
            match self.list_once(request) {
                Err(Failure::Exchange(Errno::INTR)) => {}
                result => return result,
            }
        }
        Err(Failure::Exchange(Errno::INTR))
    }

    fn list_once(&self, request: &Message) -> Result<Vec<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        request.write(1, &mut bytes);
        self.send(&bytes)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let datagram = self.receive(&mut buffer)?;
            for reply in replies(datagram) {
                interrupted |= reply.flags & flags::INTERRUPTED != 0;
                match reply.kind {
                    Reply::DONE if interrupted => return Err(Failure::Exchange(Errno::INTR)),
                    Reply::DONE => return Ok(found),
                    Reply::ERROR => {
                        return Err(Failure::Refused {
                            what: Some(request.what.clone()),
                            kind: Some(request.kind),
                            errno: Errno::from_raw_os_error(reply.errno().unwrap_or_default()),
                        });
                    }
                    _ => found.push(reply.attributes().to_vec()),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        let sent =
            sendto(&self.0, bytes, SendFlags::empty(), &kernel).map_err(Failure::Exchange)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Failure::Exchange(Errno::MSGSIZE))
        }
    }

    fn receive<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Failure> {
        let (length, whole) =
            recv(&self.0, &mut *buffer, RecvFlags::TRUNC).map_err(Failure::Exchange)?;
        if whole > length {
            return Err(Failure::Exchange(Errno::MSGSIZE));
        }
        buffer
            .get(..length)
            .ok_or(Failure::Exchange(Errno::MSGSIZE))
    }
}
