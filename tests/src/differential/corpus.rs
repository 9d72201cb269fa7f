//! The tables of the HTTP/1 engine as cases: bytes to send, and what must come of them.
//!
//! The verdict of a row is the truth here. The engine's own parser is used only to place the tag
//! where it does not change the verdict and to name method, target and host of a proper head.

use anyhow::{Context, ensure};
use bytes::Bytes;
use outrigger_proxy::h1::{BodyDecoder, Framing, Leading, RequestHead, Scanner};

/// What follows every row on the same connection.
pub const FOLLOW_BODY: &[u8] = b"follow";

const REQUESTS: &str = include_str!("../../../data-plane/proxy/src/h1/tests/requests.txt");
const RESPONSES: &str = include_str!("../../../data-plane/proxy/src/h1/tests/responses.txt");
const CHUNKS: &str = include_str!("../../../data-plane/proxy/src/h1/tests/chunks.txt");

/// One row of a table.
#[derive(Debug, Clone)]
pub struct Row {
    /// `requests:12`.
    pub name: String,
    /// As it stands before the bar.
    pub verdict: String,
    /// Unescaped.
    pub bytes: Vec<u8>,
}

/// A request row, ready to be sent.
#[derive(Debug, Clone)]
pub struct Case {
    /// The row's name.
    pub name: String,
    /// The slug of the refusal, or `accepted`, or `unfinished`.
    pub class: String,
    /// What the row's request carries as `x-tag`, unless its bytes leave no place for it.
    pub tag: String,
    /// The row, tagged.
    pub bytes: Vec<u8>,
    /// What must come of it.
    pub expect: Expect,
}

/// What must come of a request row.
#[derive(Debug, Clone)]
pub enum Expect {
    /// The server sees exactly this, once; then what is behind it.
    Accepted(Message, After),
    /// The server sees nothing whole; the client is told this slug, and the connection ends.
    Refused(String),
    /// The server sees nothing whole: more bytes would have to come.
    Unfinished,
}

/// A request as every server must understand it.
#[derive(Debug, Clone)]
pub struct Message {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// None where the mesh has to make one up (HTTP/1.0).
    pub host: Option<String>,
    /// The body without its coding.
    pub body: Vec<u8>,
    /// How many fields its head has.
    pub fields: usize,
}

/// What becomes of the bytes behind an accepted row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The follow-up is served.
    FollowUp,
    /// The row itself holds a second message, which is refused.
    Refused,
    /// The connection ends with the row's answer.
    Closed,
}

/// All rows of all tables.
#[must_use]
pub fn count() -> usize {
    [REQUESTS, RESPONSES, CHUNKS]
        .iter()
        .map(|table| content(table).count())
        .sum()
}

/// Response rows.
///
/// # Errors
/// When a row cannot be read.
pub fn responses() -> anyhow::Result<Vec<Row>> {
    rows("responses", RESPONSES)
}

/// Chunk rows.
///
/// # Errors
/// When a row cannot be read.
pub fn chunks() -> anyhow::Result<Vec<Row>> {
    rows("chunks", CHUNKS)
}

/// Request rows, and chunk rows each as the body of a POST. `prefix` begins every tag.
///
/// # Errors
/// When a row cannot be read, or a proper one cannot carry a tag.
pub fn cases(prefix: &str) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for row in rows("requests", REQUESTS)? {
        let tag = format!("{prefix}-{}", row.name.replace(':', "-"));
        cases.push(request_case(row, tag)?);
    }
    for row in chunks()? {
        let tag = format!("{prefix}-{}", row.name.replace(':', "-"));
        let head = format!(
            "POST /chunks HTTP/1.1\r\nHost: a\r\nX-Tag: {tag}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let bytes = [head.as_bytes(), &row.bytes].concat();
        let verdict = row.verdict.as_str();
        let verdict = if verdict == "ok" || verdict.starts_with("ok ") {
            "chunked"
        } else {
            verdict
        };
        let expect = expectation(verdict, &bytes)
            .with_context(|| format!("{}: {}", row.name, row.verdict))?;
        if let Expect::Accepted(message, _) = &expect {
            let body = chunk_body(&row)?;
            ensure!(message.body == body, "{}: body differs", row.name);
        }
        cases.push(case(row.name, tag, bytes, expect));
    }
    Ok(cases)
}

/// The body that a chunk row's verdict names.
///
/// # Errors
/// When the verdict cannot be read.
pub fn chunk_body(row: &Row) -> anyhow::Result<Vec<u8>> {
    unescape(row.verdict.strip_prefix("ok ").unwrap_or_default())
}

/// The request behind every row.
#[must_use]
pub fn follow_up(tag: &str) -> Vec<u8> {
    let head = format!(
        "POST /follow HTTP/1.1\r\nHost: follow\r\nX-Tag: {tag}-f\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        FOLLOW_BODY.len()
    );
    [head.as_bytes(), FOLLOW_BODY].concat()
}

fn request_case(row: Row, tag: String) -> anyhow::Result<Case> {
    let mut bytes = row.bytes;
    if row.verdict == "chunked" && head_of(&bytes).is_some_and(|(_, end)| end == bytes.len()) {
        bytes.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
    }
    let line = format!("X-Tag: {tag}\r\n");
    let tagged = places(&bytes, line.as_bytes())
        .into_iter()
        .find(|candidate| verdict_of(candidate) == verdict_of(&bytes));
    let accepted = matches!(verdict_of(&bytes).as_deref(), Ok("accepted"));
    ensure!(
        tagged.is_some() || !accepted,
        "{}: no place for a tag",
        row.name
    );
    let bytes = tagged.unwrap_or(bytes);
    let expect = expectation(&row.verdict, &bytes)
        .with_context(|| format!("{}: {}", row.name, row.verdict))?;
    Ok(case(row.name, tag, bytes, expect))
}

fn case(name: String, tag: String, bytes: Vec<u8>, expect: Expect) -> Case {
    let class = match &expect {
        Expect::Accepted(..) => "accepted".to_owned(),
        Expect::Refused(slug) => slug.clone(),
        Expect::Unfinished => "unfinished".to_owned(),
    };
    Case {
        name,
        class,
        tag,
        bytes,
        expect,
    }
}

/// Where a field line may be put in: behind the first line, before the empty line, or in place
/// of another.
fn places(bytes: &[u8], line: &[u8]) -> Vec<Vec<u8>> {
    let find = |needle: &[u8], from: usize| {
        let rest = bytes.get(from..)?;
        let at = rest.windows(needle.len()).position(|part| part == needle)?;
        Some(from + at)
    };
    let splice = |start: usize, end: usize| {
        let (before, after) = (bytes.get(..start), bytes.get(end..));
        [before.unwrap_or_default(), line, after.unwrap_or_default()].concat()
    };
    let first = bytes.iter().position(|byte| !b"\r\n".contains(byte));
    let behind_first = first
        .and_then(|start| find(b"\r\n", start))
        .map(|at| splice(at + 2, at + 2));
    let last = find(b"\r\n\r\n", first.unwrap_or_default()).map(|at| splice(at + 2, at + 2));
    let instead = find(b"X: y\r\n", 0).map(|at| splice(at, at + 6));
    [behind_first, last, instead]
        .into_iter()
        .flatten()
        .collect()
}

fn head_of(bytes: &[u8]) -> Option<(RequestHead, usize)> {
    let mut scanner = Scanner::new(Leading::OneBlankLine);
    let section = scanner.scan(bytes).ok()??;
    let end = section.skip + section.len;
    let raw = Bytes::copy_from_slice(bytes.get(section.skip..end)?);
    Some((RequestHead::parse(raw).ok()?, end))
}

/// What the engine says of a head, for comparing before and after a tag is put in.
fn verdict_of(bytes: &[u8]) -> Result<String, &'static str> {
    let mut scanner = Scanner::new(Leading::OneBlankLine);
    let Some(section) = scanner.scan(bytes).map_err(|reject| reject.slug())? else {
        return Err("partial");
    };
    let raw = bytes.get(section.skip..section.skip + section.len);
    match RequestHead::parse(Bytes::copy_from_slice(raw.unwrap_or_default())) {
        Ok(_) => Ok("accepted".to_owned()),
        Err(reject) => Err(reject.slug()),
    }
}

fn expectation(verdict: &str, bytes: &[u8]) -> anyhow::Result<Expect> {
    let length = verdict.strip_prefix("length ");
    if verdict == "partial" {
        return Ok(Expect::Unfinished);
    }
    if length.is_none() && verdict != "none" && verdict != "chunked" {
        return Ok(Expect::Refused(verdict.to_owned()));
    }
    let (head, end) = head_of(bytes).context("the engine does not accept this")?;
    let rest = bytes.get(end..).unwrap_or_default();
    let (body, rest) = match length {
        Some(length) => {
            let length: u64 = length.parse()?;
            match usize::try_from(length).map(|length| rest.split_at_checked(length)) {
                Ok(Some((body, rest))) => (body.to_vec(), rest),
                Ok(None) | Err(_) => return Ok(Expect::Unfinished),
            }
        }
        None if verdict == "none" => (Vec::new(), rest),
        None => split_chunks(rest)?,
    };
    let after = if !head.persistent() {
        After::Closed
    } else if rest.is_empty() {
        After::FollowUp
    } else {
        ensure!(head_of(rest).is_none(), "a row holds one proper message");
        After::Refused
    };
    let message = Message {
        method: head.method().to_owned(),
        target: head.path_and_query().to_owned(),
        host: head.authority().map(str::to_owned),
        body,
        fields: head.fields().count(),
    };
    Ok(Expect::Accepted(message, after))
}

fn split_chunks(mut rest: &[u8]) -> anyhow::Result<(Vec<u8>, &[u8])> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let mut body = Vec::new();
    loop {
        let step = decoder.step(rest)?;
        let (data, after) = (step.skip, step.skip + step.data);
        body.extend_from_slice(rest.get(data..after).unwrap_or_default());
        rest = rest.get(after..).unwrap_or_default();
        if step.done {
            return Ok((body, rest));
        }
        ensure!(step.data > 0, "a chunk stream without an end");
    }
}

fn content(table: &str) -> impl Iterator<Item = (usize, &str)> {
    table
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn rows(name: &str, table: &str) -> anyhow::Result<Vec<Row>> {
    content(table)
        .map(|(index, line)| {
            let (verdict, bytes) = line.split_once(" |").context("a row has a bar")?;
            Ok(Row {
                name: format!("{name}:{}", index + 1),
                verdict: verdict.to_owned(),
                bytes: unescape(bytes.strip_prefix(' ').unwrap_or(bytes))?,
            })
        })
        .collect()
}

/// The escapes of the tables: `\r`, `\n`, `\t`, `\0`, `\xNN`, and `{N*text}` for repetition.
fn unescape(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [b'x', digits @ ..]) => {
                let (digits, tail) = digits.split_at_checked(2).context("two digits")?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
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
                    bytes.extend(unescape(inner)?.repeat(times));
                    rest = tail;
                }
                None => bytes.push(b'{'),
            },
            _ => bytes.push(*first),
        }
    }
    Ok(bytes)
}

/// `N*text}tail`, with nested braces in the text.
fn repetition(after: &[u8]) -> Option<(usize, &str, &[u8])> {
    let star = after.iter().position(|byte| *byte == b'*')?;
    let times = std::str::from_utf8(after.get(..star)?).ok()?.parse().ok()?;
    let inner = after.get(star + 1..)?;
    let mut depth = 1;
    let end = inner.iter().position(|byte| {
        depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
        depth == 0
    })?;
    let text = std::str::from_utf8(inner.get(..end)?).ok()?;
    Some((times, text, inner.get(end + 1..)?))
}
