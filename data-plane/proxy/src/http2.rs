//! The HTTP/2 engine, and with it gRPC: h2's connections with every limit set, and an
//! [`Exchange`](crate::exchange::Exchange) for each stream.
//!
//! ```text
//! client ═ meter ═ h2 server connection ([`server::serve`]) ══ one task a stream: Http2Exchange
//!                                                            │ inlet: request body, replay buffer
//!                                                            │ outlet: paced by the peer's window
//! upstream ══ h2 client connection (client::Slot of each Endpoint) ══ lease of one stream
//! ```
//! The frames, HPACK, flow control and most refusals of malformed input are the `h2` crate's; it
//! is used without hyper's service layer on top, because an exchange pushes (it retries, answers
//! early, ends a stream with a code of its choice) where a service is pulled: through hyper every
//! body would cross a channel and every request a second task.
//!
//! Invariants:
//! - No byte is read from one side before the other side has taken the previous piece: what a
//!   stream holds is bounded by two windows, one piece and the replay buffer, whatever the peers do.
//! - A stream ends with a code the other side can act on: a client's reset becomes CANCEL upstream,
//!   an upstream's reset keeps its code where that cannot mislead the client.
//! - Everything lives on one worker thread; each task belongs to a connection or an endpoint.

mod client;
mod edit;
mod exchange;
mod head;
mod inlet;
mod keepalive;
mod limits;
mod meter;
mod metered;
mod outlet;
mod refusal;
mod resets;
pub mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::Slot;
pub use exchange::Http2Exchange;
pub use head::RequestHead;
pub use limits::Limits;
