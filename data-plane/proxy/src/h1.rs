//! The HTTP/1.1 engine: what the sidecar speaks when neither side speaks HTTP/2.
//!
//! A head stays the raw bytes it arrived as. [`scan`] finds its end without looking at a byte
//! twice, [`request`] and [`response`] read it into spans, [`framing`] decides how long the body
//! is, [`chunk`] and [`body`] take the body apart, and [`write`] puts a head together again: runs
//! of kept lines copied whole, everything that concerns one hop left out, framing written from the
//! typed value. These parts are pure: bytes in, bytes out.
//!
//! Invariants:
//! - An ambiguity is refused with a [`Reject`], never repaired: what one server repairs, the next
//!   repairs differently (request smuggling). Each refusal has a slug and a row in the corpus.
//! - `Content-Length` and `Transfer-Encoding` that leave are written from [`Framing`].
//! - After any [`Reject`] the connection carries no further message.
//!
//! Cost: no allocation per request once the buffers of a worker exist, two reads and two writes
//! (one of each a side), and a head copied once.
//!
//! Around them stands the I/O: [`serve`] is the loop of a client's connection, [`H1Exchange`] one
//! request and its answer, with the upstream connection of the present try.

mod attempt;
pub mod authority;
pub mod body;
pub mod chunk;
pub mod connection;
mod deliver;
mod diagnose;
mod downstream;
mod exchange;
pub mod field;
pub mod framing;
mod inflow;
mod refusal;
pub mod reject;
pub mod request;
pub mod response;
pub mod scan;
mod sentinel;
pub mod server;
#[cfg(test)]
mod tests;
pub mod trailer;
mod tunnel;
mod up;
mod watch;
mod wire;
pub mod write;

pub use body::{BodyDecoder, Step};
pub use exchange::H1Exchange;
pub use framing::{Asked, Framing};
pub use inflow::REPLAY_BYTES_MAX;
pub use reject::Reject;
pub use request::RequestHead;
pub use response::ResponseHead;
pub use scan::{Leading, Scanner, Section};
pub use server::{Served, serve};
pub use trailer::Trailers;
pub(crate) use trailer::is_forbidden as is_forbidden_trailer;

/// Largest head, target and fields and line ends together, and largest trailer section: 64 KiB
/// less one byte, so that a position fits sixteen bits. More: 431, from a server 502.
pub const HEAD_BYTES_MAX: usize = 65_535;

/// Most fields in a head or trailer section. More: 431, from a server 502.
pub const FIELDS_MAX: usize = 100;

/// Most elements in the `Connection` fields of one head; each is compared with each field, so
/// this bounds the work. Real clients send one to three. More: 400.
pub const OPTIONS_MAX: usize = 32;

/// Bytes that one connection reads ahead, and holds back when its peer is slow: 64 KiB.
pub const BUFFER_BYTES_MAX: usize = 65_536;

/// The reason behind a slug of this engine, as another sidecar's answer names it.
pub(crate) fn reason_of_slug(slug: &[u8]) -> Option<crate::reason::Reason> {
    let mut known = Reject::ALL.iter().copied();
    known
        .find(|reject| reject.slug().as_bytes() == slug)
        .map(refusal::reason)
}

/// The versions the engine speaks. What it sends itself is always HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: one request a connection, no chunks.
    Http10,
    /// HTTP/1.1.
    Http11,
}
