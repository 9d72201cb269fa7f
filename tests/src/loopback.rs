//! Addresses and ports of loopback that no other test has.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Ports that [`free_port`] gives: below those that the system gives to clients, so that nobody
/// takes one by chance before the application that it is for.
const PORT_FIRST: u16 = 10_000;
const PORTS: u16 = 9_000;

/// An address of this process's own, outside 127.1.0.0/16, where `outrigger up` gives addresses by
/// itself, and 127.8.0.0/16, which the outside suites write into their manifests.
///
/// # Panics
/// After 255 addresses.
#[must_use]
pub fn free_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    let last = u8::try_from(last).expect("a process asks for fewer than 256 addresses");
    Ipv4Addr::new(127, 0x40 | (high & 0x3f), low, last)
}

/// A port of 127.0.0.1 that nobody has now, for programs that take a number and not a socket.
///
/// # Panics
/// When all 9,000 that it gives are taken.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let first = u16::from_be_bytes([high, low]).wrapping_mul(61) % PORTS;
    let mut tried = (0..PORTS).map(|_| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        PORT_FIRST + (first + next) % PORTS
    });
    tried
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of 9,000 ports is free")
}
