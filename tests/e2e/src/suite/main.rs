//! Outrigger on a real cluster: installed by Helm, injected into pods, in the path of their traffic.
//!
//! `e2e --chart DIR --crds FILE --tag TAG`, with `KUBECONFIG`, `kubectl` and `helm`: the cluster's nodes
//! have the images `outrigger/control-plane`, `outrigger/proxy` and `outrigger/e2e-app` of that tag,
//! and this machine reaches pods by their addresses. What is missing fails. Everything it makes is in namespaces of
//! its own, and gone at the end, or at the next run's begin when a check fails; what the chart leaves behind
//! is a failure.

mod cluster;
mod injection;
mod install;
mod rights;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, bail};
use cluster::Cluster;

/// What the suite works with.
struct Ground {
    cluster: Cluster,
    /// The chart's folder.
    chart: PathBuf,
    /// Istio's CustomResourceDefinitions.
    crds: PathBuf,
    /// Tag of all images.
    tag: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let ground = ground()?;
    // What a run that failed has left for looking at.
    install::uninstall(&ground).await?;
    let began = Instant::now();
    let outcome = checks(&ground).await;
    if outcome.is_err() {
        ground.cluster.show_what_is_there().await;
    }
    outcome?;
    say(&format!("all is well after {:.0?}", began.elapsed()));
    Ok(ExitCode::SUCCESS)
}

fn ground() -> anyhow::Result<Ground> {
    let (mut chart, mut crds, mut tag) = (None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.as_str() {
            "--chart" => chart = Some(value),
            "--crds" => crds = Some(value),
            "--tag" => tag = Some(value),
            _ => bail!("what is {name}?"),
        }
    }
    let usage = "usage: e2e --chart DIR --crds FILE --tag TAG";
    let tag = tag.context(usage)?;
    Ok(Ground {
        cluster: Cluster::new(format!("outrigger/e2e-app:{tag}"))?,
        chart: chart.context(usage)?.into(),
        crds: crds.context(usage)?.into(),
        tag,
    })
}

async fn checks(ground: &Ground) -> anyhow::Result<()> {
    let cluster = &ground.cluster;
    check(
        "the chart installs, and both replicas serve",
        install::install(ground),
    )
    .await?;
    check(
        "the control plane may do what it has to, and nothing more",
        rights::are_least(cluster),
    )
    .await?;
    check(
        "pods get a sidecar, which starts first",
        injection::enrolled(cluster),
    )
    .await?;
    check(
        "pods that shall not have one are left alone",
        injection::left_alone(cluster),
    )
    .await?;
    check(
        "mutual TLS both ways, plain text refused",
        traffic::mutual_tls(cluster),
    )
    .await?;
    check(
        "a server that speaks first, over mutual TLS",
        traffic::server_first(cluster),
    )
    .await?;
    check("a 90/10 split, counted", traffic::split(cluster)).await?;
    check("retries and timeouts", traffic::resilience(cluster)).await?;
    check(
        "a probe of a closed port fails",
        injection::unready(cluster),
    )
    .await?;
    check("a Job finishes", injection::job(cluster)).await?;
    check(
        "without a control plane traffic flows, and nobody else is held up",
        install::outage(ground),
    )
    .await?;
    check(
        "the chart uninstalls and leaves nothing",
        install::removal(ground),
    )
    .await
}

async fn check(name: &str, it: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let began = Instant::now();
    it.await.with_context(|| format!("FAILED: {name}"))?;
    say(&format!(
        "{:>6.1?} s  {name}",
        began.elapsed().as_secs_f32()
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a person or CI reads it")]
fn say(line: &str) {
    println!("{line}");
}
