//! The compiler through its public interface: YAML in, resources, diagnostics and ledger out.
//!
//! (`cfg(test)` is always true here; it tells clippy that helpers may unwrap.)

#[cfg(test)]
mod incremental;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod resolve;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod status;
#[cfg(test)]
mod yaml;
