//! What an accepted HTTP/2 connection sends beside requests, counted (DEF-08).
//!
//! h2 answers or ignores control frames by itself and tells nobody: a client can make it work
//! for ever without one request. So the bytes are looked at as they pass, frame heads only:
//! [`Heads`] finds them however the stream is cut, [`Meter`] holds them against a budget that
//! requests and their answers fill. Nothing is copied or allocated: ten bytes of state each way
//! and a few counters a connection, about a hundred instructions a frame.
//!
//! Pure: the clock is an argument, asked for frames that have a budget by time alone. CONTINUATION
//! frames, header sizes and buffered DATA frames have their own bounds in h2; streams that are
//! opened to be reset in [`super::resets`].

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Bytes before the first frame of a client (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;

/// Empty DATA frames in a row that do not end their stream.
const EMPTY_MAX: u64 = 1;
/// PRIORITY frames for each stream opened.
const PRIORITIES_PER_STREAM: u64 = 100;
/// WINDOW_UPDATE frames for each DATA frame sent to the client.
const UPDATES_PER_DATA: u64 = 10;
/// And for each stream: it may raise the window of each before anything is sent.
const UPDATES_PER_STREAM: u64 = 2;
/// What a connection may have of either beside that, at its beginning.
const AT_FIRST: u64 = 100;
/// PING, SETTINGS and frames of unknown types in a [`WINDOW`].
const OTHERS_MAX: u64 = 1_000;
/// And for each frame of a request or answer in that time: some clients measure the way with a
/// PING for each piece of a body.
const OTHERS_PER_FRAME: u64 = 10;
/// In which those are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Frames without a request, beyond what the requests account for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    /// DATA without data.
    EmptyData,
    /// PRIORITY.
    Priority,
    /// RST_STREAM, more than there were streams.
    Reset,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// PING, SETTINGS, and types that are to be ignored.
    Other,
}

/// For the log and the reason's detail.
impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyData => "empty DATA frames",
            Self::Priority => "PRIORITY frames",
            Self::Reset => "RST_STREAM frames",
            Self::WindowUpdate => "WINDOW_UPDATE frames",
            Self::Other => "PING, SETTINGS or unknown frames",
        })
    }
}

/// What of a frame's head counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
    /// Payload without padding where it is DATA.
    bytes: u32,
}

/// Finds frame heads in a stream of bytes that comes in any pieces.
#[derive(Debug)]
pub(super) struct Heads {
    /// A head in the making; with padding, one byte more is part of it.
    head: [u8; HEAD + 1],
    filled: usize,
    /// Bytes that follow and are no head.
    skip: usize,
}

impl Heads {
    /// Of what a client sends: the preface comes first.
    pub(super) fn of_client() -> Self {
        Self {
            skip: PREFACE,
            ..Self::of_server()
        }
    }

    /// Of what a server sends.
    pub(super) fn of_server() -> Self {
        Self {
            head: [0; HEAD + 1],
            filled: 0,
            skip: 0,
        }
    }

    /// Takes in the next bytes; gives each frame whose head ends in them to `note`.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut note: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let wanted = if self.filled < HEAD { HEAD } else { HEAD + 1 };
            let taken = (wanted - self.filled).min(bytes.len());
            if let Some((into, from)) = self
                .head
                .get_mut(self.filled..self.filled + taken)
                .zip(bytes.get(..taken))
            {
                into.copy_from_slice(from);
            }
            self.filled += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.filled == wanted
                && let Some(frame) = self.frame()
            {
                note(frame);
            }
        }
    }

    /// The frame whose head is there; `None` where its padding is to be read first.
    fn frame(&mut self) -> Option<Frame> {
        let [a, b, c, kind, flags, _, _, _, _, padding] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let padded = kind == DATA && flags & PADDED != 0 && length > 0;
        if padded && self.filled == HEAD {
            return None;
        }
        let read = u32::from(padded);
        let bytes = if padded {
            length.saturating_sub(read + u32::from(padding))
        } else {
            length
        };
        self.skip = usize::try_from(length - read).unwrap_or(usize::MAX);
        self.filled = 0;
        Some(Frame { kind, flags, bytes })
    }
}

/// Counters of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    streams: u64,
    data_sent: u64,
    empty: u64,
    priorities: u64,
    resets: u64,
    updates: u64,
    /// Since `began`, and frames of requests and answers since then.
    others: u64,
    carrying: u64,
    began: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            streams: 0,
            data_sent: 0,
            empty: 0,
            priorities: 0,
            resets: 0,
            updates: 0,
            others: 0,
            carrying: 0,
            began: now,
        }
    }

    /// A frame of an answer.
    pub(super) fn sent(&mut self, frame: Frame) {
        match frame.kind {
            DATA => {
                self.data_sent += 1;
                self.carrying += 1;
            }
            HEADERS => self.carrying += 1,
            _ => {}
        }
    }

    /// A frame of the client; says when it is one too many.
    pub(super) fn received(
        &mut self,
        frame: Frame,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Flood> {
        let (count, most, flood) = match frame.kind {
            DATA => {
                self.carrying += 1;
                let idle = frame.bytes == 0 && frame.flags & END_STREAM == 0;
                self.empty = if idle { self.empty + 1 } else { 0 };
                (self.empty, EMPTY_MAX, Flood::EmptyData)
            }
            HEADERS => {
                self.carrying += 1;
                self.streams += 1;
                return Ok(());
            }
            CONTINUATION => return Ok(()),
            PRIORITY => {
                self.priorities += 1;
                let most = PRIORITIES_PER_STREAM * (self.streams + 1);
                (self.priorities, most, Flood::Priority)
            }
            RST_STREAM => {
                self.resets += 1;
                (self.resets, AT_FIRST + self.streams, Flood::Reset)
            }
            WINDOW_UPDATE => {
                self.updates += 1;
                let most = AT_FIRST
                    + UPDATES_PER_STREAM * self.streams
                    + UPDATES_PER_DATA * self.data_sent;
                (self.updates, most, Flood::WindowUpdate)
            }
            _ => {
                let now = now();
                if now.saturating_duration_since(self.began) >= WINDOW {
                    self.began = now;
                    self.others = 0;
                    self.carrying = 0;
                }
                self.others += 1;
                let most = OTHERS_MAX + OTHERS_PER_FRAME * self.carrying;
                (self.others, most, Flood::Other)
            }
        };
        if count > most { Err(flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const UNKNOWN: u8 = 0x10;

    /// The bytes of a frame.
    fn bytes(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn heads_of(mut heads: Heads, pieces: &[&[u8]]) -> Vec<Frame> {
        let mut seen = Vec::new();
        for piece in pieces {
            heads.pass(piece, |frame| seen.push(frame));
        }
        seen
    }

    fn frame(kind: u8, flags: u8, bytes: u32) -> Frame {
        Frame { kind, flags, bytes }
    }

    #[test]
    fn heads_are_found_behind_preface_payload_and_padding() {
        let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        stream.extend(bytes(SETTINGS, 0, &[]));
        stream.extend(bytes(HEADERS, 4, &[0; 300]));
        stream.extend(bytes(DATA, 0, &[0; 70_000]));
        stream.extend(bytes(DATA, PADDED, &[3, b'x', 0, 0, 0]));
        stream.extend(bytes(DATA, PADDED, &[4, 0, 0, 0, 0]));
        stream.extend(bytes(DATA, PADDED, &[9]));
        stream.extend(bytes(DATA, PADDED, &[]));
        stream.extend(bytes(PING, 1, &[0; 8]));
        let expected = [
            frame(SETTINGS, 0, 0),
            frame(HEADERS, 4, 300),
            frame(DATA, 0, 70_000),
            frame(DATA, PADDED, 1),
            frame(DATA, PADDED, 0),
            frame(DATA, PADDED, 0),
            frame(DATA, PADDED, 0),
            frame(PING, 1, 8),
        ];
        assert_eq!(heads_of(Heads::of_client(), &[&stream]), expected);
        let single: Vec<_> = stream.chunks(1).collect();
        assert_eq!(heads_of(Heads::of_client(), &single), expected);
        assert_eq!(heads_of(Heads::of_server(), &[&stream[24..]]), expected);
    }

    /// So many frames of a kind, after `streams` requests and `data` DATA frames of answers: the
    /// flood, if it is one.
    fn count(kind: u8, frames: u64, (streams, data): (u64, u64)) -> Option<Flood> {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        for _ in 0..streams {
            meter.received(frame(HEADERS, 4, 9), || now).unwrap();
        }
        (0..data).for_each(|_| meter.sent(frame(DATA, 0, 1)));
        let mut sent = 0..frames;
        sent.find_map(|_| meter.received(frame(kind, 0, 0), || now).err())
    }

    #[test]
    fn each_kind_has_its_budget() {
        let check = |kind, frames, carried, flood| {
            assert_eq!(count(kind, frames, carried), None, "{flood}");
            assert_eq!(count(kind, frames + 1, carried), Some(flood));
        };
        check(DATA, 1, (1, 0), Flood::EmptyData);
        check(PRIORITY, 100, (0, 0), Flood::Priority);
        check(PRIORITY, 300, (2, 50), Flood::Priority);
        check(RST_STREAM, 100, (0, 0), Flood::Reset);
        check(RST_STREAM, 1_100, (1_000, 0), Flood::Reset);
        check(WINDOW_UPDATE, 100, (0, 0), Flood::WindowUpdate);
        check(
            WINDOW_UPDATE,
            100 + 2 * 7 + 10 * 5,
            (7, 5),
            Flood::WindowUpdate,
        );
        for kind in [PING, SETTINGS, UNKNOWN, u8::MAX] {
            check(kind, 1_000, (0, 0), Flood::Other);
            check(kind, 1_000 + 10 * 12, (5, 7), Flood::Other);
        }
        for kind in [HEADERS, CONTINUATION] {
            assert_eq!(count(kind, 100_000, (0, 0)), None);
        }
    }

    #[test]
    fn data_and_time_fill_it_again() {
        let begun = Instant::now();
        let mut meter = Meter::new(begun);
        for _ in 0..100 {
            meter.received(frame(DATA, 0, 0), || begun).unwrap();
            meter.received(frame(DATA, 0, 1), || begun).unwrap();
            meter
                .received(frame(DATA, END_STREAM, 0), || begun)
                .unwrap();
        }
        let mut meter = Meter::new(begun);
        for second in 1..10 {
            let now = begun + WINDOW * second;
            for _ in 0..1_000 {
                meter.received(frame(PING, 0, 8), || now).unwrap();
            }
            let over = meter.received(frame(PING, 0, 8), || now);
            assert_eq!(over, Err(Flood::Other));
        }
    }

    prop_compose! {
        /// A frame of any kind, padded or not, of any small size.
        fn any_frame()(kind in 0..12_u8, flags: u8, payload in prop::collection::vec(any::<u8>(), 0..40)) -> Vec<u8> {
            bytes(kind, flags, &payload)
        }
    }

    proptest! {
        /// However the stream is cut, the same frames are seen.
        #[test]
        fn any_cut_shows_the_same_frames(
            frames in prop::collection::vec(any_frame(), 0..30),
            cuts in prop::collection::vec(0..1_500_usize, 0..40),
        ) {
            let mut stream = vec![b'p'; PREFACE];
            let count = frames.len();
            stream.extend(frames.into_iter().flatten());
            let whole = heads_of(Heads::of_client(), &[&stream]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(whole.len(), count);
            prop_assert_eq!(heads_of(Heads::of_client(), &pieces), whole);
        }

        /// No bytes are too strange to be walked over.
        #[test]
        fn any_bytes_are_walked_over(stream in prop::collection::vec(any::<u8>(), 0..500)) {
            heads_of(Heads::of_client(), &[&stream]);
        }
    }
}
