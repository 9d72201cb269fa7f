//! The cluster, by way of `kubectl` and `helm`, and its pods, by their addresses.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command, time::timeout};

use super::say;

/// Longest wait for anything; on an idle machine nothing takes a fraction of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);
/// How often what has no signal of its own is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Image of the pods' application.
    app: String,
}

impl Cluster {
    /// The cluster of `$KUBECONFIG`.
    pub(crate) fn new(app: String) -> anyhow::Result<Self> {
        let config = std::env::var_os("KUBECONFIG");
        ensure!(
            config.is_some_and(|config| !config.is_empty()),
            "KUBECONFIG says which cluster"
        );
        Ok(Self { app })
    }

    /// Runs `kubectl`, and returns what it prints.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run("kubectl", arguments, "").await
    }

    /// Applies a manifest, in which `$APP` is the application's image.
    pub(crate) async fn apply(&self, manifest: &str) -> anyhow::Result<()> {
        self.with_manifest(&["apply", "-f", "-"], manifest)
            .await
            .map(drop)
    }

    /// Runs `kubectl` with a manifest as its input.
    pub(crate) async fn with_manifest(
        &self,
        arguments: &[&str],
        manifest: &str,
    ) -> anyhow::Result<String> {
        run("kubectl", arguments, &manifest.replace("$APP", &self.app)).await
    }

    /// An object as it is now.
    pub(crate) async fn get(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all).await?)?)
    }

    /// The only pod of `e2e` with these labels that is not ending.
    pub(crate) async fn pod(&self, labels: &str) -> anyhow::Result<Value> {
        let list = self.get(&["pods", "-n", "e2e", "-l", labels]).await?;
        let pods = list["items"].as_array().context("no list of pods")?;
        let mut live = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        match (live.next(), live.next()) {
            (Some(pod), None) => Ok(pod.clone()),
            _ => bail!("one pod of {labels} was expected"),
        }
    }

    /// Waits until a Deployment of `e2e` is as it is asked to be.
    pub(crate) async fn rolled_out(&self, namespace: &str, deployment: &str) -> anyhow::Result<()> {
        let (name, within) = (format!("deployment/{deployment}"), seconds(DEADLINE));
        let arguments = ["rollout", "status", "-n", namespace, &name, &within];
        self.kubectl(&arguments).await.map(drop)
    }

    /// For whoever has to find out why.
    pub(crate) async fn show_what_is_there(&self) {
        for arguments in [
            &["get", "pods", "-A", "-o", "wide"] as &[&str],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "-n",
                "outrigger-system",
                "-l",
                "app.kubernetes.io/name=outrigger",
                "--tail=60",
                "--prefix",
            ],
            &[
                "logs",
                "-n",
                "e2e",
                "-l",
                "app in (client, server)",
                "-c",
                "outrigger-proxy",
                "--tail=40",
                "--prefix",
            ],
        ] {
            match self.kubectl(arguments).await {
                Ok(text) => say(&text),
                Err(error) => say(&format!("{error:#}")),
            }
        }
    }
}

/// `--timeout` of kubectl.
pub(crate) fn seconds(time: Duration) -> String {
    format!("--timeout={}s", time.as_secs())
}

/// Runs a program to its end, and returns what it prints.
pub(crate) async fn run(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("no {program} in PATH"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let fed = async move {
        // One that reads nothing has its own reasons, and says so.
        drop(stdin.write_all(input.as_bytes()).await);
    };
    let both = async { tokio::join!(fed, child.wait_with_output()).1 };
    let output = timeout(DEADLINE + Duration::from_secs(30), both)
        .await
        .with_context(what)??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", what(), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks until something is so; what was found last says what is in the way.
pub(crate) async fn until<T, F>(mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed() > DEADLINE => {
                return Err(error.context(format!("not so within {DEADLINE:?}")));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Status and body of a GET from this machine: from outside the mesh.
pub(crate) async fn get(address: &str, port: u16, path: &str) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let stream = TcpStream::connect((address, port)).await?;
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path)
            .header("host", address)
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = send.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            drop(send);
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let (answer, ended) = tokio::join!(answer, connection);
        // The answer is whole, or says what went wrong.
        drop(ended);
        answer
    };
    let what = || format!("GET http://{address}:{port}{path}");
    timeout(DEADLINE, exchange)
        .await
        .with_context(what)?
        .with_context(what)
}

/// A pod's address.
pub(crate) fn address(pod: &Value) -> anyhow::Result<&str> {
    pod["status"]["podIP"]
        .as_str()
        .context("the pod has no address")
}
