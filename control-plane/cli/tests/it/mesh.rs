//! Whole meshes of real processes, proved by counting what really reaches the applications.
//!
//! Each test writes its own manifests, on ports and addresses of its own, so that tests run side by
//! side. Nothing sleeps to settle: tests wait for events, counts and metrics, with a deadline.

mod bed;
mod change;
mod load;
mod orders;
mod processes;
mod products;
mod restart;
mod security;
mod streams;
