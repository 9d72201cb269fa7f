//! Runs the three tables. Every row is parsed whole and byte by byte; both must agree with it.

use super::super::{
    Asked, Framing, Leading, Reject, RequestHead, ResponseHead, Scanner, chunk::ChunkDecoder,
};
use bytes::Bytes;
use std::collections::HashSet;

const REQUESTS: &str = include_str!("requests.txt");
const RESPONSES: &str = include_str!("responses.txt");
const CHUNKS: &str = include_str!("chunks.txt");

/// The rows of a table: line number, verdict, bytes.
pub(super) fn rows(table: &str) -> Vec<(usize, String, Vec<u8>)> {
    let content = |line: &&str| !line.is_empty() && !line.starts_with('#');
    table
        .lines()
        .enumerate()
        .filter(|(_, line)| content(line))
        .map(|(index, line)| {
            let (verdict, bytes) = line.split_once(" |").expect("a row has a bar");
            let bytes = bytes.strip_prefix(' ').unwrap_or(bytes);
            (index + 1, verdict.to_owned(), unescape(bytes))
        })
        .collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let hex =
                    |digit: &u8| u8::try_from(char::from(*digit).to_digit(16).unwrap()).unwrap();
                bytes.push(hex(high) << 4 | hex(low));
                rest = tail;
            }
            (b'\\', [escape, tail @ ..]) => {
                bytes.push(match escape {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'0' => 0,
                    other => *other,
                });
                rest = tail;
            }
            (b'{', _) => match repetition(after) {
                Some((times, inner, tail)) => {
                    let inner = unescape(inner);
                    (0..times).for_each(|_| bytes.extend_from_slice(&inner));
                    rest = tail;
                }
                None => bytes.push(b'{'),
            },
            _ => bytes.push(*first),
        }
    }
    bytes
}

/// `N*text}tail`, with nested braces in the text.
fn repetition(after: &[u8]) -> Option<(usize, &str, &[u8])> {
    let star = after.iter().position(|byte| *byte == b'*')?;
    let times = std::str::from_utf8(&after[..star]).ok()?.parse().ok()?;
    let mut depth = 1;
    let end = after[star..].iter().position(|byte| {
        depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
        depth == 0
    })? + star;
    Some((
        times,
        std::str::from_utf8(&after[star + 1..end]).ok()?,
        &after[end + 1..],
    ))
}

fn verdict(result: Result<Option<Framing>, Reject>) -> String {
    match result {
        Ok(Some(Framing::None)) => "none".to_owned(),
        Ok(Some(Framing::Length(length))) => format!("length {length}"),
        Ok(Some(Framing::Chunked)) => "chunked".to_owned(),
        Ok(Some(Framing::UntilClose)) => "until-close".to_owned(),
        Ok(None) => "partial".to_owned(),
        Err(reject) => reject.slug().to_owned(),
    }
}

/// Feeds `bytes` in pieces of `step`, as reads would bring them, then parses.
pub(super) fn framing_of(
    bytes: &[u8],
    step: usize,
    leading: Leading,
) -> Result<Option<Framing>, Reject> {
    let mut scanner = Scanner::new(leading);
    let ends = (step..bytes.len()).step_by(step).chain([bytes.len()]);
    for end in ends {
        if let Some(section) = scanner.scan(&bytes[..end])? {
            let raw = Bytes::copy_from_slice(&bytes[section.skip..section.skip + section.len]);
            return match leading {
                Leading::OneBlankLine => RequestHead::parse(raw).map(|head| Some(head.framing())),
                Leading::Nothing | Leading::FieldsOnly => {
                    ResponseHead::parse(raw, Asked::Other).map(|head| Some(head.framing()))
                }
            };
        }
    }
    Ok(None)
}

fn check_heads(table: &str, leading: Leading) -> usize {
    let rows = rows(table);
    for (line, expected, bytes) in &rows {
        for step in [usize::MAX, 1, 7] {
            let got = verdict(framing_of(bytes, step.min(bytes.len().max(1)), leading));
            assert_eq!(&got, expected, "line {line}, pieces of {step}");
        }
    }
    rows.len()
}

#[test]
fn every_request_head_has_its_verdict() {
    assert!(check_heads(REQUESTS, Leading::OneBlankLine) >= 200);
}

#[test]
fn every_response_head_has_its_verdict() {
    assert!(check_heads(RESPONSES, Leading::Nothing) >= 50);
}

/// Runs a decoder over `bytes` in pieces, keeping what it leaves, as a connection does.
pub(super) fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Option<Vec<u8>>), Reject> {
    let mut decoder = ChunkDecoder::default();
    let mut body = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let found = decoder.step(&bytes[start..end])?;
        start += found.skip;
        body.extend_from_slice(&bytes[start..start + found.data]);
        start += found.data;
        if found.done {
            return Ok((body, Some(decoder.take_trailers().as_bytes().to_vec())));
        }
        if found.data == 0 {
            if end == bytes.len() {
                return Ok((body, None));
            }
            end = end.saturating_add(step).min(bytes.len());
        }
    }
}

#[test]
fn every_chunk_stream_has_its_verdict() {
    let rows = rows(CHUNKS);
    for (line, expected, bytes) in &rows {
        for step in [usize::MAX, 1, 3] {
            let got = match decode(bytes, step) {
                Ok((body, Some(_))) => [b"ok ", body.as_slice()].concat().trim_ascii_end().to_vec(),
                Ok((_, None)) => b"partial".to_vec(),
                Err(reject) => reject.slug().as_bytes().to_vec(),
            };
            let expected = unescape(expected).trim_ascii_end().to_vec();
            assert_eq!(
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&expected),
                "line {line}, pieces of {step}"
            );
        }
    }
    assert!(rows.len() >= 70);
}

/// Whoever looks on after a refusal, to see whether the body has ended, must not be told so.
#[test]
fn the_refusal_of_a_chunk_stream_is_final() {
    for (line, _, bytes) in rows(CHUNKS) {
        let mut decoder = ChunkDecoder::default();
        let mut rest = bytes.as_slice();
        let reject = loop {
            match decoder.step(rest) {
                Ok(step) if step.done || step.data == 0 => break None,
                Ok(step) => rest = &rest[step.skip + step.data..],
                Err(reject) => break Some(reject),
            }
        };
        if let Some(reject) = reject {
            assert_eq!(decoder.step(rest), Err(reject), "line {line}");
        }
    }
}

#[test]
fn trailers_are_filtered_and_written_anew() {
    let stream =
        b"0\r\nX-Sum:  a b \r\nContent-Length: 5\r\ntransfer_encoding: chunked\r\nHost: a\r\n\
        Authorization: x\r\nX-Outrigger-Reason: y\r\nx_outrigger_a: z\r\nX-Forwarded-For: 1\r\n\
        Grpc-Status: 0\r\n\r\n";
    for step in [1, 5, 4096] {
        let (_, trailers) = decode(stream, step).unwrap();
        assert_eq!(trailers.unwrap(), b"X-Sum: a b\r\nGrpc-Status: 0\r\n");
    }
}

#[test]
fn every_refusal_is_proved_by_a_row_and_has_its_own_slug() {
    let seen: HashSet<String> = [REQUESTS, RESPONSES, CHUNKS]
        .iter()
        .flat_map(|table| rows(table).into_iter().map(|row| row.1))
        .collect();
    let mut slugs = HashSet::new();
    for reject in Reject::ALL {
        assert!(slugs.insert(reject.slug()), "{reject} twice");
        let elsewhere = *reject == Reject::Truncated; // `BodyDecoder::finish`, at end of stream
        assert!(
            elsewhere || seen.contains(reject.slug()),
            "no row for {reject}"
        );
        assert!(matches!(reject.status(), 400 | 431 | 501 | 505));
    }
}
