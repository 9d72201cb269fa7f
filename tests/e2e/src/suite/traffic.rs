//! Traffic between pods of the mesh, and from outside it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, address, get, until},
    install::metrics,
};

/// Requests that are counted for a split.
const REQUESTS: u32 = 1_000;

/// Has the pod at `client` send requests, and says what they came to.
pub(crate) async fn drive(client: &str, times: u32, url: &str) -> anyhow::Result<Value> {
    let (status, text) = get(client, 8081, &format!("/drive?{times}&{url}")).await?;
    ensure!(status == 200, "the client answers {status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// Client and server prove who they are; whoever proves nothing is refused.
pub(crate) async fn mutual_tls(cluster: &Cluster) -> anyhow::Result<()> {
    let client = cluster.pod("app=client").await?;
    let tally = drive(address(&client)?, 50, "http://server/").await?;
    ensure!(tally["statuses"] == json!({"200": 50}), "{tally}");

    let page = metrics(&client).await?;
    let sent = requests(
        &page,
        &[
            "direction=\"outbound\"",
            "destination_service_name=\"server\"",
            "connection_security_policy=\"mutual_tls\"",
        ],
    );
    ensure!(
        sent >= 50.0,
        "the client sent {sent} over mutual TLS:\n{page}"
    );
    let mut received = 0.0;
    for version in ["v1", "v2"] {
        let server = cluster
            .pod(&format!("app=server,version={version}"))
            .await?;
        let page = metrics(&server).await?;
        let principal = "source_principal=\"spiffe://cluster.local/ns/e2e/sa/client\"";
        received += requests(
            &page,
            &[
                "direction=\"inbound\"",
                principal,
                "connection_security_policy=\"mutual_tls\"",
            ],
        );
        let plain = requests(
            &page,
            &[
                "direction=\"inbound\"",
                "connection_security_policy=\"none\"",
                "response_code=\"200\"",
            ],
        );
        ensure!(plain == 0.0, "{version} served {plain} in plain text");

        // From here, in plain text: nothing of the application comes back.
        let answer = get(address(&server)?, 8080, "/").await;
        let is_refused = answer.as_ref().map_or(true, |(status, _)| *status == 403);
        ensure!(
            is_refused,
            "plain text to a strict pod is answered: {answer:?}"
        );
    }
    ensure!(
        received >= 50.0,
        "the servers saw {received} requests of the client's identity"
    );
    Ok(())
}

/// A service that speaks first is reached over mutual TLS as well.
pub(crate) async fn server_first(cluster: &Cluster) -> anyhow::Result<()> {
    let client = cluster.pod("app=client").await?;
    let (status, said) = get(address(&client)?, 8081, "/greet?server:7000").await?;
    ensure!(
        status == 200 && said == "hello\nand you\n",
        "a server that speaks first: {status} {said:?}"
    );
    let page = metrics(&client).await?;
    let opened = page.lines().any(|line| {
        line.starts_with("outrigger_tcp_connections_opened_total{")
            && line.contains("destination_port=\"7000\"")
            && line.contains("connection_security_policy=\"mutual_tls\"")
    });
    ensure!(opened, "not over mutual TLS:\n{page}");
    Ok(())
}

/// Sum of `outrigger_requests_total` over the series with all of these labels.
fn requests(page: &str, labels: &[&str]) -> f64 {
    let series = page
        .lines()
        .filter(|line| line.starts_with("outrigger_requests_total{"));
    let wanted = series.filter(|line| labels.iter().all(|label| line.contains(label)));
    wanted
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// Applies routes, waits until the client's sidecar uses them, and says how long that took. A request
/// for `mark` tells: only these routes send it where nobody is.
async fn route(cluster: &Cluster, manifest: &str, mark: &str) -> anyhow::Result<Duration> {
    let client = cluster.pod("app=client").await?;
    let client = address(&client)?;
    cluster.apply(manifest).await?;
    let began = Instant::now();
    until(|| async {
        let tally = drive(client, 1, &format!("http://server/{mark}")).await?;
        ensure!(
            tally["statuses"] == json!({"503": 1}),
            "no route for {mark} yet: {tally}"
        );
        Ok(())
    })
    .await?;
    Ok(began.elapsed())
}

/// Of a thousand requests some hundred go to the canary: with a standard deviation of 9.5, outside
/// of 60 to 140 is one in forty thousand.
pub(crate) async fn split(cluster: &Cluster) -> anyhow::Result<()> {
    route(
        cluster,
        include_str!("../../manifests/split.yaml"),
        "split-mark",
    )
    .await?;
    let client = cluster.pod("app=client").await?;
    let tally = drive(address(&client)?, REQUESTS, "http://server/").await?;
    ensure!(tally["statuses"] == json!({"200": REQUESTS}), "{tally}");
    let canary = tally["versions"]["v2"]
        .as_u64()
        .context("none went to v2")?;
    ensure!(
        (60..=140).contains(&canary),
        "{canary} of {REQUESTS} went to v2"
    );
    Ok(())
}

/// A request that fails once succeeds; one that takes too long is ended.
pub(crate) async fn resilience(cluster: &Cluster) -> anyhow::Result<()> {
    let client = cluster.pod("app=client").await?;
    let client = address(&client)?;
    // Routed by the split: nothing is retried on 503.
    let before = drive(client, 1, "http://server/flaky?before").await?;
    ensure!(
        before["statuses"] == json!({"503": 1}),
        "without retries: {before}"
    );
    route(
        cluster,
        include_str!("../../manifests/resilience.yaml"),
        "resilience-mark",
    )
    .await?;
    for name in ["one", "two", "three"] {
        let tally = drive(client, 1, &format!("http://server/flaky?{name}")).await?;
        ensure!(
            tally["statuses"] == json!({"200": 1}),
            "with retries: {tally}"
        );
    }
    let began = Instant::now();
    let slow = drive(client, 1, "http://server/slow").await?;
    ensure!(
        slow["statuses"] == json!({"504": 1}),
        "with a timeout: {slow}"
    );
    ensure!(
        began.elapsed() < Duration::from_secs(4),
        "the timeout took {:?}",
        began.elapsed()
    );
    Ok(())
}
