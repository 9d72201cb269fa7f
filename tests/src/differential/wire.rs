//! A raw client: bytes out, whole answers in, and how the connection ended.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outrigger_proxy::h1::{Asked, BodyDecoder, Leading, ResponseHead, Scanner};

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// `x-outrigger-reason`: it is the mesh's own.
    pub reason: Option<String>,
    /// `x-seen-tag`: which request the server says it answers.
    pub tag: Option<String>,
    /// The body without its coding.
    pub body: Vec<u8>,
}

/// How a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The peer closed.
    Closed,
    /// The peer cut the connection.
    Reset,
    /// Nothing more came in time.
    Silent,
    /// All awaited answers are there.
    Enough,
    /// What came is no answer, by this slug.
    Garbage(&'static str),
}

/// What came back on one connection.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Whole answers, in order. Interim ones are left out.
    pub answers: Vec<Answer>,
    /// How it ended.
    pub end: End,
    /// Bytes behind the last whole answer.
    pub rest: usize,
}

/// How a conversation is led.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Close the sending side behind the bytes.
    pub half_close: bool,
    /// The first request is HEAD: its answer has no body.
    pub head: bool,
    /// Stop after this many answers.
    pub enough: usize,
    /// Longest silence before it ends.
    pub patience: Duration,
}

/// Sends `bytes` on a new connection and reads what comes back.
///
/// # Errors
/// When there is no connection.
pub fn converse(
    address: SocketAddr,
    bytes: &[u8],
    manner: Manner,
) -> std::io::Result<Conversation> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(manner.patience))?;
    stream.set_read_timeout(Some(manner.patience))?;
    // A peer that refuses early need not take the rest: what it answered counts.
    if stream.write_all(bytes).is_ok() && manner.half_close {
        drop(stream.shutdown(Shutdown::Write));
    }
    let deadline = Instant::now() + manner.patience * 4;
    let mut got = Vec::new();
    let mut buffer = [0; 16_384];
    let ended = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break End::Closed,
            Ok(count) => got.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break End::Silent;
            }
            Err(_) => break End::Reset,
        }
        let so_far = read(&got, manner.head, false);
        if so_far.answers.len() >= manner.enough {
            break End::Enough;
        }
        if Instant::now() > deadline {
            break End::Silent;
        }
    };
    let mut conversation = read(&got, manner.head, ended == End::Closed);
    if !matches!(conversation.end, End::Garbage(_)) {
        conversation.end = ended;
    }
    Ok(conversation)
}

/// Takes answers apart.
fn read(mut bytes: &[u8], head: bool, closed: bool) -> Conversation {
    let mut conversation = Conversation {
        answers: Vec::new(),
        end: End::Silent,
        rest: 0,
    };
    loop {
        let asked = if head && conversation.answers.is_empty() {
            Asked::Head
        } else {
            Asked::Other
        };
        match one(bytes, asked, closed) {
            Ok(Some((answer, rest))) => {
                bytes = rest;
                conversation.answers.extend(answer);
            }
            Ok(None) => break,
            Err(slug) => {
                conversation.end = End::Garbage(slug);
                break;
            }
        }
    }
    conversation.rest = bytes.len();
    conversation
}

type One<'a> = Option<(Option<Answer>, &'a [u8])>;

/// The first answer of `bytes`; none inside where it was an interim one.
fn one(bytes: &[u8], asked: Asked, closed: bool) -> Result<One<'_>, &'static str> {
    let mut scanner = Scanner::new(Leading::Nothing);
    let Some(section) = scanner.scan(bytes).map_err(|reject| reject.slug())? else {
        return Ok(None);
    };
    let (raw, mut rest) = bytes.split_at(section.len);
    let head =
        ResponseHead::parse(Bytes::copy_from_slice(raw), asked).map_err(|reject| reject.slug())?;
    if head.interim() {
        return Ok(Some((None, rest)));
    }
    let mut decoder = BodyDecoder::new(head.framing());
    let mut body = Vec::new();
    loop {
        let step = decoder.step(rest).map_err(|reject| reject.slug())?;
        let (data, after) = (step.skip, step.skip + step.data);
        body.extend_from_slice(rest.get(data..after).unwrap_or_default());
        rest = rest.get(after..).unwrap_or_default();
        if step.done || (closed && rest.is_empty() && decoder.finish().is_ok()) {
            break;
        }
        if step.data == 0 {
            return Ok(None);
        }
    }
    let text = |name: &str| {
        head.get(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let answer = Answer {
        status: head.status(),
        reason: text("x-outrigger-reason"),
        tag: text("x-seen-tag").filter(|tag| !tag.is_empty()),
        body,
    };
    Ok(Some((Some(answer), rest)))
}
