//! Capture of a workload's TCP traffic: the nftables rules that lead it through its sidecar
//! (DESIGN §5 "Interception"), and their application in the present network namespace.
//!
//! [`Capture`] says what is wanted, [`ruleset`] turns it into rules (pure), [`apply`] writes them in
//! one transaction and reads them back, [`undo`] takes them away. Used by `outrigger-proxy redirect`
//! (init container) and by whoever enters a pod's namespace for it; both need `CAP_NET_ADMIN` there
//! and nothing else: no `nft` binary, no library, no file.
//!
//! Everything lives in one table, `inet outrigger`, which nobody else may use: applying replaces it
//! whole, so that doing it twice is doing it once, and no moment is without rules.

#![forbid(unsafe_code)]

mod apply;
mod arguments;
mod capture;
mod cidr;
mod netlink;
mod plan;

pub use apply::{Applied, Error, Verb, apply, undo, verify};
pub use arguments::{Order, USAGE, UsageError, parse};
pub use capture::{Capture, CaptureError, ENTRIES_MAX, NEVER_CAPTURED_INBOUND, OWN_POD_PRIORITY};
pub use cidr::{Cidr, CidrError};
pub use plan::{Chain, Hook, Match, Rule, Ruleset, Verdict, ruleset};
