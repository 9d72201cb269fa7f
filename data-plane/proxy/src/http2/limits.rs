//! Every bound of the engine in one place: all HTTP/2 connections, accepted and opened, are
//! built from a [`Limits`] (SECURITY-NOTES rule 5 and §3).

use std::time::Duration;

use h2::{client, server};

/// Bounds of HTTP/2 connections. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Streams a client may have open, and streams being worked on (DEF-04: 100). A client that
    /// opens more has them refused; those it resets while they are being worked on still count.
    pub streams_max: u32,
    /// Receive window of a stream, both sides (DEF-05: 64 KiB).
    pub stream_window: u32,
    /// Receive window of an accepted connection (DEF-05: 1 MiB). An opened one has room for every
    /// stream's window: it is shared by many clients, and with less, a few who do not read their
    /// answers would stop the answers of all others.
    pub connection_window: u32,
    /// Decoded header or trailer bytes, counted as RFC 9113 §6.5.2 does (DEF-01: 64 KiB).
    pub header_list_bytes_max: u32,
    /// Fields of a head or of trailers; cookie crumbs count once (DEF-02: 100).
    pub fields_max: usize,
    /// Bytes of a body kept so that it can be sent again (DEF-20: 64 KiB).
    pub replay_bytes_max: usize,
    /// Streams reset by the peer before they were looked at (DEF-07: 20), else GOAWAY.
    pub resets_pending_accept_max: usize,
    /// Streams we had to reset for the peer's errors (DEF-07: 64), else GOAWAY.
    pub resets_local_error_max: usize,
    /// Bytes waiting in a stream to be sent (DEF-06: 64 KiB).
    pub send_buffer: usize,
    /// Dynamic HPACK table (DEF-09: 4 KiB).
    pub header_table: u32,
    /// Interim responses passed on for one request (DEF-22: 16).
    pub interim_max: u32,
    /// Preface of a client (DEF-12: 10 s).
    pub preface_timeout: Duration,
    /// First SETTINGS of an upstream after the connection is made (DEF-11: 5 s).
    pub settings_timeout: Duration,
    /// No byte of a stream either way (DEF-13: 5 min).
    pub stream_idle: Duration,
    /// A client's connection without streams (DEF-14: 1 h); then it is told to go.
    pub connection_idle: Duration,
    /// PING interval and wait for the answer towards clients (DEF-17: 30 s + 10 s).
    pub ping_down: (Duration, Duration),
    /// PING interval and wait for the answer towards other sidecars (DEF-17: 10 s + 3 s).
    pub ping_up: (Duration, Duration),
}

impl Limits {
    /// The values of SECURITY-NOTES §3.
    pub const DEFAULT: Self = Self {
        streams_max: 100,
        stream_window: 64 * 1024,
        connection_window: 1024 * 1024,
        header_list_bytes_max: 64 * 1024,
        fields_max: 100,
        replay_bytes_max: 64 * 1024,
        resets_pending_accept_max: 20,
        resets_local_error_max: 64,
        send_buffer: 64 * 1024,
        header_table: 4096,
        interim_max: 16,
        preface_timeout: Duration::from_secs(10),
        settings_timeout: Duration::from_secs(5),
        stream_idle: Duration::from_secs(300),
        connection_idle: Duration::from_secs(3600),
        ping_down: (Duration::from_secs(30), Duration::from_secs(10)),
        ping_up: (Duration::from_secs(10), Duration::from_secs(3)),
    };

    /// Builder of accepted connections.
    pub(super) fn server(&self) -> server::Builder {
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(self.streams_max)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            // Twice the bound: our own check answers with a reason what h2 would refuse without.
            .max_header_list_size(self.header_list_bytes_max.saturating_mul(2))
            .header_table_size(self.header_table)
            .max_send_buffer_size(self.send_buffer)
            .max_pending_accept_reset_streams(self.resets_pending_accept_max)
            .max_local_error_reset_streams(Some(self.resets_local_error_max));
        builder
    }

    /// Builder of opened connections.
    pub(super) fn client(&self) -> client::Builder {
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            // Nothing is sent before the peer's SETTINGS told how many streams it takes: until
            // then this 0 stands for "not known".
            .initial_max_send_streams(0)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.stream_window.saturating_mul(self.streams_max))
            .max_header_list_size(self.header_list_bytes_max)
            .header_table_size(self.header_table)
            .max_send_buffer_size(self.send_buffer)
            .max_local_error_reset_streams(Some(self.resets_local_error_max));
        builder
    }
}
