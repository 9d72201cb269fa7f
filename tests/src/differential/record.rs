//! What a server saw, one entry a request; and the recorder behind servers that are proxies.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use bytes::Bytes;
use outrigger_proxy::h1::{BodyDecoder, Leading, RequestHead, Scanner};
use serde::{Deserialize, Serialize};

/// One request, as a server understood it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its `x-tag`.
    pub tag: Option<String>,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its `Host`.
    pub host: Option<String>,
    /// Its body in hexadecimal digits.
    pub body: String,
    /// Whether the body came whole.
    pub complete: bool,
}

/// What one server saw so far.
#[derive(Debug, Clone, Default)]
pub struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    /// Adds one.
    pub fn push(&self, record: Record) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(record);
    }

    /// Takes out all.
    #[must_use]
    pub fn take(&self) -> Vec<Record> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut all)
    }
}

/// Bytes as the records hold them.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

/// A backend for servers that are proxies: reads with the engine's own strict parser, records,
/// and answers with the record. Lives as long as the program. Returns its port on 127.0.0.1.
///
/// # Errors
/// When it cannot listen.
pub fn recorder(records: Records) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let records = records.clone();
            // A connection that breaks ends its thread; what it carried whole is recorded.
            thread::spawn(move || drop(serve(stream, &records)));
        }
    });
    Ok(port)
}

fn serve(mut stream: TcpStream, records: &Records) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer)? {
        let mut record = Record {
            tag: text(&head, "x-tag"),
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            host: text(&head, "host"),
            body: String::new(),
            complete: false,
        };
        if head.expect_continue() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = read_body(&mut stream, &mut buffer, &head);
        record.complete = body.is_ok();
        record.body = hex(body.as_deref().unwrap_or_default());
        let payload = serde_json::to_vec(&record)?;
        let complete = record.complete;
        let head_of_answer = format!(
            "HTTP/1.1 200 OK\r\nx-seen-tag: {}\r\ncontent-length: {}\r\n\r\n",
            record.tag.as_deref().unwrap_or_default(),
            payload.len()
        );
        // One write: HAProxy 2.6 holds back a body that comes apart from its head behind a 100.
        let mut answer = head_of_answer.into_bytes();
        if head.method() != "HEAD" {
            answer.extend_from_slice(&payload);
        }
        records.push(record);
        if !complete {
            break;
        }
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// The next head; none at an orderly end.
///
/// # Errors
/// When the connection breaks or the engine refuses the head.
pub fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> anyhow::Result<Option<RequestHead>> {
    loop {
        let mut scanner = Scanner::new(Leading::OneBlankLine);
        if let Some(section) = scanner.scan(buffer)? {
            buffer.drain(..section.skip);
            let raw: Vec<u8> = buffer.drain(..section.len).collect();
            return Ok(Some(RequestHead::parse(Bytes::from(raw))?));
        }
        if !fill(stream, buffer)? {
            return Ok(None);
        }
    }
}

fn read_body(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    head: &RequestHead,
) -> anyhow::Result<Vec<u8>> {
    let mut decoder = BodyDecoder::new(head.framing());
    let mut body = Vec::new();
    loop {
        let step = decoder.step(buffer)?;
        buffer.drain(..step.skip);
        body.extend(buffer.drain(..step.data));
        if step.done {
            return Ok(body);
        }
        if step.data == 0 && !fill(stream, buffer)? {
            anyhow::bail!("closed in a body");
        }
    }
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut part = [0; 16_384];
    let count = stream.read(&mut part)?;
    buffer.extend_from_slice(part.get(..count).unwrap_or_default());
    Ok(count > 0)
}

fn text(head: &RequestHead, name: &str) -> Option<String> {
    head.get(name)
        .map(|value| String::from_utf8_lossy(value).into_owned())
}
