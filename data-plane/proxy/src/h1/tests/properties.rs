//! Properties: the same bytes give the same verdict however they are split, chunks survive the
//! round trip, and work grows no faster than size.

use super::super::chunk::{CHUNK_END, put_end, put_size};
use super::super::{Leading, Scanner, Trailers};
use super::corpus::{decode, framing_of, rows};
use proptest::prelude::*;

/// Bytes that look like HTTP often enough to reach deep into the parser.
fn http_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Connection: x-a, close\r\n".to_vec()),
        Just(b"X-A: b\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"5;x\r\nhello\r\n".to_vec()),
        Just(b"0\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn splits_do_not_change_a_request_verdict(bytes in http_like(), step in 1_usize..40) {
        let whole = framing_of(&bytes, bytes.len().max(1), Leading::OneBlankLine);
        prop_assert_eq!(framing_of(&bytes, step, Leading::OneBlankLine), whole);
    }

    /// A proper head with a few bytes struck: what one way of finding its end accepts, the other
    /// accepts, and nothing accepted holds a line that does not end in CRLF.
    #[test]
    fn a_damaged_head_is_judged_alike_whole_and_in_pieces(
        strikes in proptest::collection::vec(
            (0_usize..90, proptest::sample::select(vec!["\n", "\r", "\r\n", "\0", " "]), any::<bool>()),
            1..4,
        ),
        step in 1_usize..40,
    ) {
        let mut bytes = b"POST /a HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 5\r\nY: z\r\n\r\nhello\r\n\r\n".to_vec();
        for (position, with, replace) in strikes {
            let position = position % bytes.len();
            bytes.splice(position..position + usize::from(replace), with.bytes());
        }
        let whole = framing_of(&bytes, bytes.len(), Leading::OneBlankLine);
        let pieces = framing_of(&bytes, step, Leading::OneBlankLine);
        prop_assert_eq!(whole.ok(), pieces.ok());
        if let Ok(Some(_)) = whole {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            let bare = |at: &usize| bytes[*at] == b'\n' && (*at == 0 || bytes[at - 1] != b'\r');
            prop_assert_eq!((0..end).find(bare), None);
        }
    }

    #[test]
    fn splits_do_not_change_a_chunk_stream(bytes in http_like(), step in 1_usize..40) {
        prop_assert_eq!(decode(&bytes, step), decode(&bytes, usize::MAX));
    }

    #[test]
    fn chunks_survive_the_round_trip(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20),
        step in 1_usize..600,
        trailer in "[a-z]{1,8}",
    ) {
        let mut wire = Vec::new();
        for piece in &pieces {
            put_size(piece.len(), &mut wire);
            wire.extend_from_slice(piece);
            wire.extend_from_slice(CHUNK_END);
        }
        let mut trailers = Trailers::default();
        trailers.push("x-sum", trailer.as_bytes());
        put_end(&trailers, &mut wire);
        let (body, got) = decode(&wire, step).unwrap();
        prop_assert_eq!(body, pieces.concat());
        prop_assert_eq!(got.unwrap(), trailers.as_bytes());
    }

    #[test]
    fn chunk_sizes_are_written_as_they_are_read(len in 1_usize..) {
        let mut line = Vec::new();
        put_size(len, &mut line);
        let text = std::str::from_utf8(&line).unwrap().trim_end();
        prop_assert_eq!(usize::from_str_radix(text, 16).unwrap(), len);
    }
}

/// The scanner never looks at a byte twice, so a head sent byte by byte is linear work. Counted,
/// not timed: the sum of what each call has left to look at is the length of the head.
#[test]
fn a_head_byte_by_byte_is_linear_work() {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    head.resize(60_000, b'y');
    let mut scanner = Scanner::new(Leading::OneBlankLine);
    for end in 1..=head.len() {
        assert_eq!(scanner.scan(&head[..end]), Ok(None));
        assert_eq!(scanner.unseen(&head[..end]), 0);
        assert_eq!(scanner.unseen(&head), head.len() - end);
    }
}

#[test]
fn nominated_fields_are_bounded_work() {
    // 32 options and 99 fields are the most there can be; one more of either is refused.
    let options = (0..32)
        .map(|n| format!("x-{n}"))
        .collect::<Vec<_>>()
        .join(",");
    let fields = (0..98).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {options}\r\n{fields}\r\n");
    assert!(framing_of(head.as_bytes(), 4096, Leading::OneBlankLine).is_ok());
}

#[test]
fn the_tables_are_read_as_written() {
    let rows = rows("# comment\n\nok | a\\r\\n{2*b{3*c}}\\x41\n");
    assert_eq!(rows, [(3, "ok".to_owned(), b"a\r\nbcccbcccA".to_vec())]);
}
