//! What becomes of pods: a sidecar or none, what starts first, probes, Jobs.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::cluster::{Cluster, DEADLINE, seconds, until};

const SIDECAR: &str = "outrigger-proxy";
const STATUS: &str = "outrigger.dev/status";

/// Every kind of probe passes through strict mutual TLS, and the sidecar is up before anything that
/// comes after it: an init container of the pod's own reaches a service through it.
pub(crate) async fn enrolled(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .apply(include_str!("../../manifests/namespaces.yaml"))
        .await?;
    cluster
        .apply(include_str!("../../manifests/server.yaml"))
        .await?;
    cluster.rolled_out("e2e", "server-v1").await?;
    cluster.rolled_out("e2e", "server-v2").await?;
    cluster
        .apply(include_str!("../../manifests/client.yaml"))
        .await?;
    cluster.rolled_out("e2e", "client").await?;
    for labels in [
        "app=client",
        "app=server,version=v1",
        "app=server,version=v2",
    ] {
        let pod = cluster.pod(labels).await?;
        ensure!(
            pod["metadata"]["annotations"][STATUS] == "injected",
            "{labels} is not injected"
        );
        starts_first(&pod).with_context(|| format!("pod of {labels}"))?;
    }
    Ok(())
}

fn starts_first(pod: &Value) -> anyhow::Result<()> {
    let status = |list: &str, name: &str| {
        let all = pod["status"][list].as_array()?;
        all.iter().find(|one| one["name"] == name).cloned()
    };
    let sidecar = status("initContainerStatuses", SIDECAR).context("no native sidecar")?;
    ensure!(
        sidecar["started"] == true && sidecar["ready"] == true,
        "the sidecar is not up: {sidecar}"
    );
    ensure!(
        sidecar["restartCount"] == 0,
        "the sidecar has restarted: {sidecar}"
    );
    let app = status("containerStatuses", "app").context("no application")?;
    let began = |container: &Value| {
        container["state"]["running"]["startedAt"]
            .as_str()
            .map(str::to_owned)
    };
    match (began(&sidecar), began(&app)) {
        // RFC 3339 in UTC with whole seconds: as texts in the order of time.
        (Some(sidecar), Some(app)) if sidecar <= app => {}
        times => bail!("started out of order: {times:?}"),
    }
    // The pod's own init container is after the sidecar in the list, which is the order of starts.
    let list = pod["spec"]["initContainers"]
        .as_array()
        .context("no init containers")?;
    let names: Vec<&str> = list.iter().filter_map(|one| one["name"].as_str()).collect();
    ensure!(
        names.starts_with(&["outrigger-redirect", SIDECAR]),
        "out of order: {names:?}"
    );
    Ok(())
}

/// Who says no, and who was never asked.
pub(crate) async fn left_alone(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .apply(include_str!("../../manifests/left-alone.yaml"))
        .await?;
    for (namespace, name, note) in [
        // The API server is told not to ask.
        ("e2e", "says-no", ""),
        (
            "e2e",
            "on-the-node",
            "skipped: the pod is on the host's network",
        ),
        ("e2e-outside", "stranger", ""),
        ("e2e-opted-out", "stranger", ""),
    ] {
        let pod = cluster.get(&["pod", name, "-n", namespace]).await?;
        let text = pod["metadata"]["annotations"][STATUS]
            .as_str()
            .unwrap_or_default();
        ensure!(text == note, "{namespace}/{name} says {text:?}");
        ensure!(
            pod["spec"]["initContainers"].is_null(),
            "{namespace}/{name} has a sidecar"
        );
    }
    Ok(())
}

/// The kubelet sees probes of closed ports fail.
pub(crate) async fn unready(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .apply(include_str!("../../manifests/unready.yaml"))
        .await?;
    for name in ["unready-tcp", "unready-http"] {
        until(|| async {
            let object = format!("involvedObject.name={name},reason=Unhealthy");
            let events = cluster
                .get(&["events", "-n", "e2e", "--field-selector", &object])
                .await?;
            let events = events["items"].as_array().context("no list of events")?;
            let of_app =
                |event: &&Value| event["involvedObject"]["fieldPath"] == "spec.containers{app}";
            ensure!(
                events.iter().any(|event| of_app(&event)),
                "no probe of {name} has failed"
            );
            Ok(())
        })
        .await?;
        let pod = cluster.get(&["pod", name, "-n", "e2e"]).await?;
        let ready = &pod["status"]["containerStatuses"][0]["ready"];
        ensure!(ready == false, "{name} is ready, though nobody listens");
    }
    cluster
        .with_manifest(
            &["delete", "--wait=false", "-f", "-"],
            include_str!("../../manifests/unready.yaml"),
        )
        .await
        .map(drop)
}

/// A Job reaches a service through its sidecar, and is complete when it has.
pub(crate) async fn job(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .apply(include_str!("../../manifests/job.yaml"))
        .await?;
    let within = seconds(DEADLINE);
    cluster
        .kubectl(&[
            "wait",
            "-n",
            "e2e",
            "--for=condition=complete",
            "job/once",
            &within,
        ])
        .await?;
    let pods = cluster
        .get(&["pods", "-n", "e2e", "-l", "job-name=once"])
        .await?;
    let pod = &pods["items"][0];
    ensure!(
        pod["metadata"]["annotations"][STATUS] == "injected",
        "the Job had no sidecar"
    );
    ensure!(
        pod["status"]["phase"] == "Succeeded",
        "the Job's pod is {}",
        pod["status"]["phase"]
    );
    Ok(())
}
