//! Response rows: a bare socket answers with them behind its sidecar, and real clients read what
//! their sidecar makes of it.
//!
//! Behind each row that the model accepts lies a second, unasked response: no client may ever
//! get it. After each row the client asks for something of its own, and must get that.

use std::{
    fs,
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use outrigger_proxy::h1::{Asked, ResponseHead};
use serde::Deserialize;

use super::{
    Tally,
    corpus::{self, Row},
    ground, manifests,
    record::{hex, read_head},
    servers::build_go,
};
use crate::Workload;

/// Name of the workload of the bare socket.
pub const NAME: &str = "answers";

/// Unasked, behind an answer.
const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// One row as a server's answer.
#[derive(Debug)]
struct Script {
    name: String,
    bytes: Vec<u8>,
    close: bool,
    expect: Expect,
}

/// What a client must get.
#[derive(Debug)]
enum Expect {
    /// This status and body.
    Answer(u16, Vec<u8>),
    /// 502 of the mesh.
    Refused,
    /// 502 or 503 of the mesh, or an answer that is visibly cut.
    Broken,
}

/// The bare socket.
#[derive(Debug)]
pub struct Answers {
    port: u16,
    scripts: Arc<Vec<Script>>,
}

impl Answers {
    /// Listens, for as long as the program lives.
    ///
    /// # Errors
    /// When it cannot listen or the corpus cannot be read.
    pub fn start() -> anyhow::Result<Self> {
        let mut scripts = Vec::new();
        for row in corpus::responses()? {
            scripts.push(from_head(row)?);
        }
        for row in corpus::chunks()? {
            scripts.push(from_chunks(row)?);
        }
        let scripts = Arc::new(scripts);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::clone(&scripts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let scripts = Arc::clone(&shared);
                // The sidecar cuts connections after refused rows: no error here means anything.
                thread::spawn(move || drop(serve(stream, &scripts)));
            }
        });
        Ok(Self { port, scripts })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn serve(mut stream: TcpStream, scripts: &[Script]) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer)? {
        let (kind, index) = head
            .target()
            .trim_start_matches('/')
            .split_once('/')
            .context("a path of two parts")?;
        if kind == "next" {
            let body = format!("next {index}");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes())?;
            continue;
        }
        let script = scripts.get(index.parse::<usize>()?).context("a row")?;
        stream.write_all(&script.bytes)?;
        if script.close {
            stream.shutdown(Shutdown::Write)?;
        }
    }
    Ok(())
}

fn from_head(row: Row) -> anyhow::Result<Script> {
    let mut bytes = row.bytes;
    let mut close = false;
    let length = row.verdict.strip_prefix("length ");
    let accepted = length.is_some() || ["none", "chunked", "until-close"].contains(&&*row.verdict);
    let expect = if accepted {
        let head = ResponseHead::parse(Bytes::copy_from_slice(&bytes), Asked::Other)
            .with_context(|| row.name.clone())?;
        let mut status = head.status();
        let body = match (row.verdict.as_str(), status) {
            ("chunked", _) => {
                bytes.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
                b"hello".to_vec()
            }
            ("until-close", _) => {
                close = true;
                bytes.extend_from_slice(b"hello");
                b"hello".to_vec()
            }
            ("none", 100..=199) => {
                status = 200;
                bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal");
                b"final".to_vec()
            }
            ("none", _) => Vec::new(),
            _ => {
                let body = vec![b'z'; length.unwrap_or_default().parse()?];
                bytes.extend_from_slice(&body);
                body
            }
        };
        if !close {
            bytes.extend_from_slice(POISON);
        }
        if head.status() == 101 {
            Expect::Refused
        } else {
            Expect::Answer(status, body)
        }
    } else {
        close = row.verdict == "partial";
        if close {
            Expect::Broken
        } else {
            Expect::Refused
        }
    };
    Ok(Script {
        name: row.name,
        bytes,
        close,
        expect,
    })
}

fn from_chunks(row: Row) -> anyhow::Result<Script> {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut bytes = [head.as_slice(), &row.bytes].concat();
    let accepted = row.verdict == "ok" || row.verdict.starts_with("ok ");
    let expect = if accepted {
        bytes.extend_from_slice(POISON);
        Expect::Answer(200, corpus::chunk_body(&row)?)
    } else {
        Expect::Broken
    };
    Ok(Script {
        close: row.verdict == "partial",
        name: row.name,
        bytes,
        expect,
    })
}

/// What a client says of one answer.
#[derive(Debug, Deserialize)]
struct Got {
    #[serde(default)]
    status: u16,
    reason: Option<String>,
    #[serde(default)]
    body: String,
    error: Option<String>,
}

/// A client's line.
#[derive(Debug, Deserialize)]
struct Line {
    index: usize,
    answer: Got,
    next: Got,
}

/// Runs every client over every row, through the client's sidecar.
///
/// # Errors
/// When a client cannot be run or does not report.
pub fn check(
    answers: &Answers,
    client: &Workload,
    folder: &Path,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let host = manifests::host(NAME);
    let address = client.outbound.get(&host);
    let address = address.with_context(|| format!("no outbound listener for {host}"))?;
    let script = |name: &str, text: &str| {
        fs::write(folder.join(name), text)?;
        anyhow::Ok(folder.join(name))
    };
    let mut node = Command::new(ground::program("node")?);
    node.arg(script("client.js", include_str!("servers/client.js"))?);
    let mut python = Command::new(ground::program("python3")?);
    python.arg(script("client.py", include_str!("servers/client.py"))?);
    let go = Command::new(build_go(
        folder,
        "client",
        include_str!("servers/client.go"),
    )?);
    let count = answers.scripts.len();
    let clients = [
        ("node client", node),
        ("go client", go),
        ("python client", python),
    ];
    let reports = thread::scope(|scope| {
        let running = clients.map(|(name, mut command)| {
            command
                .arg(format!("http://{address}"))
                .arg(count.to_string());
            (name, scope.spawn(move || run(command)))
        });
        running.map(|(name, thread)| (name, thread.join()))
    });
    for (client, lines) in reports {
        let lines = lines.map_err(|_| anyhow::anyhow!("{client} broke"))??;
        ensure!(lines.len() == count, "{client}: {} of {count}", lines.len());
        for line in &lines {
            let script = answers.scripts.get(line.index).context("a known row")?;
            let name = format!("{client} {}", script.name);
            tally.note(&name, judge(client, script, line));
        }
    }
    Ok(())
}

fn run(mut command: Command) -> anyhow::Result<Vec<Line>> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a client failed: {errors}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

fn judge(client: &str, script: &Script, line: &Line) -> Result<(), String> {
    let got = &line.answer;
    let own = got.error.is_none() && got.reason.is_some();
    let right = match &script.expect {
        Expect::Answer(status, body) => {
            got.error.is_none()
                && got.reason.is_none()
                && got.status == *status
                && got.body == hex(body)
        }
        Expect::Refused => own && got.status == 502,
        Expect::Broken => (own && matches!(got.status, 502 | 503)) || got.error.is_some(),
    };
    if !right && !is_own_way(client, script, got) {
        return Err(format!("{got:?} instead of {:?}", script.expect));
    }
    let next = &line.next;
    let body = hex(format!("next {}", line.index).as_bytes());
    if next.status == 200 && next.body == body {
        Ok(())
    } else {
        Err(format!("the next request got {next:?}"))
    }
}

/// What a client is known to make of a proper answer; its next request must be served all the same.
fn is_own_way(client: &str, script: &Script, got: &Got) -> bool {
    match client {
        // Its limit is the standard library's: of the interim answers it skips 100 only.
        "python client" => got.status == 103 && script.bytes.starts_with(b"HTTP/1.1 103"),
        "go client" => got
            .error
            .as_deref()
            .is_some_and(|error| error.contains("bad trailer key")),
        _ => false,
    }
}
