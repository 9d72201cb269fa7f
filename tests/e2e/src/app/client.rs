//! Requests, as an application sends them: by name, in plain HTTP/1.1.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Uri, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What one request came to.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
}

/// What many requests came to: how many had which status, and which value of a header.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tally {
    statuses: BTreeMap<String, u32>,
    versions: BTreeMap<String, u32>,
    reasons: BTreeMap<String, u32>,
}

impl Tally {
    fn take(&mut self, answer: &anyhow::Result<Answer>) {
        let Ok(answer) = answer else {
            *self.statuses.entry("none".to_owned()).or_default() += 1;
            return;
        };
        *self.statuses.entry(answer.status.to_string()).or_default() += 1;
        for (counts, header) in [
            (&mut self.versions, "x-version"),
            (&mut self.reasons, "x-outrigger-reason"),
        ] {
            if let Some(value) = answer.headers.get(header) {
                *counts.entry(value.clone()).or_default() += 1;
            }
        }
    }
}

/// Sends `times` requests, one after the other, each over a connection of its own.
pub(crate) async fn drive(url: &Uri, times: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..times {
        tally.take(&get(url, Duration::from_secs(10)).await);
    }
    tally
}

/// Sends one request.
pub(crate) async fn get(url: &Uri, within: Duration) -> anyhow::Result<Answer> {
    timeout(within, try_get(url))
        .await
        .with_context(|| format!("{url} does not answer"))?
        .with_context(|| format!("{url} cannot be had"))
}

async fn try_get(url: &Uri) -> anyhow::Result<Answer> {
    let host = url.host().context("the URL has no host")?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await?;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, host)
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = send.send_request(request).await?;
        let (head, body) = response.into_parts();
        body.collect().await?;
        drop(send);
        anyhow::Ok(head)
    };
    let (head, ended) = tokio::join!(exchange, connection);
    let head = head?;
    // The answer is whole: how the connection ends is of no interest.
    drop(ended);
    let headers = head.headers.iter();
    let headers = headers
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    Ok(Answer {
        status: head.status.as_u16(),
        headers,
    })
}

/// What the other side says first (a line), and what it says to a word.
pub(crate) async fn greet(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let mut said = vec![0; "hello\n".len()];
    stream.read_exact(&mut said).await?;
    stream.write_all(b"and you\n").await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}
