//! nf_tables over netlink: messages as trees of attributes ([`message`]), rules as messages
//! ([`encode`]), and the socket ([`socket`]).
//!
//! Only what [`crate::plan`] needs, after the kernel's `linux/netfilter/nf_tables.h`. Numbers in
//! attributes are big-endian, headers are in the machine's order.

pub(crate) mod encode;
pub(crate) mod message;
pub(crate) mod socket;
