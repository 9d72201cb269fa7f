//! The chart: in, away for a while, and out again.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{
    Ground,
    cluster::{DEADLINE, address, get, run, seconds, until},
    traffic,
};

const NAMESPACE: &str = "outrigger-system";
const WEBHOOK: &str = "outrigger-injector-outrigger-system";

/// Everything of ours that a cluster can hold, by its label.
const OURS: &str = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings,configmaps,secrets,leases,\
                    deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,pods";

/// Installs, and waits until the API server can call the injector.
pub(crate) async fn install(ground: &Ground) -> anyhow::Result<()> {
    let cluster = &ground.cluster;
    let crds = ground
        .crds
        .to_str()
        .context("the path of the CRDs is no text")?;
    cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", crds])
        .await?;
    let chart = ground
        .chart
        .to_str()
        .context("the path of the chart is no text")?;
    let tag = format!("image.tag={}", ground.tag);
    run(
        "helm",
        &[
            "install",
            "outrigger",
            chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--set",
            &tag,
            "--set",
            "image.pullPolicy=Never",
            "--wait",
            "--timeout=180s",
        ],
        "",
    )
    .await?;
    until(|| async {
        let found = cluster
            .get(&["mutatingwebhookconfiguration", WEBHOOK])
            .await?;
        let hooks = found["webhooks"].as_array().context("no webhooks")?;
        let has_bundle = |hook: &Value| {
            hook["clientConfig"]["caBundle"]
                .as_str()
                .is_some_and(|bundle| !bundle.is_empty())
        };
        ensure!(
            !hooks.is_empty() && hooks.iter().all(has_bundle),
            "no caBundle yet"
        );
        Ok(())
    })
    .await
}

/// With no replica: sidecars work on, enrolled pods wait, all others are let in.
pub(crate) async fn outage(ground: &Ground) -> anyhow::Result<()> {
    let cluster = &ground.cluster;
    let scale = |replicas: &'static str| async move {
        cluster
            .kubectl(&["scale", "-n", NAMESPACE, "deployment/outrigger", replicas])
            .await
    };
    scale("--replicas=0").await?;
    let gone = seconds(DEADLINE);
    cluster
        .kubectl(&[
            "wait",
            "-n",
            NAMESPACE,
            "--for=delete",
            "pod",
            "-l",
            "app.kubernetes.io/component=control-plane",
            &gone,
        ])
        .await?;
    let client = cluster.pod("app=client").await?;
    let tally = traffic::drive(address(&client)?, 20, "http://server/").await?;
    ensure!(
        tally["statuses"] == serde_json::json!({"200": 20}),
        "without a control plane: {tally}"
    );

    let pod = |namespace: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: during-outage, namespace: {namespace}}}, \
         spec: {{restartPolicy: Never, containers: [{{name: app, image: $APP, args: [alive]}}]}}}}"
        )
    };
    let refused = cluster
        .with_manifest(&["create", "-f", "-"], &pod("e2e"))
        .await;
    let text = refused
        .err()
        .context("an enrolled pod came in without a sidecar")?
        .to_string();
    ensure!(
        text.contains("failed calling webhook"),
        "refused for another reason: {text}"
    );
    for namespace in ["e2e-outside", "e2e-opted-out", "kube-system", NAMESPACE] {
        let made = cluster
            .with_manifest(&["create", "--dry-run=server", "-f", "-"], &pod(namespace))
            .await;
        made.with_context(|| format!("namespace {namespace} is held up"))?;
    }
    scale("--replicas=2").await?;
    cluster.rolled_out(NAMESPACE, "outrigger").await
}

/// Uninstalls while pods go on being made in an enrolled namespace: none is refused, because the
/// webhook goes first.
pub(crate) async fn removal(ground: &Ground) -> anyhow::Result<()> {
    let cluster = &ground.cluster;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {generateName: late-, namespace: e2e}, \
               spec: {containers: [{name: app, image: $APP, args: [alive]}]}}";
    let removing = remove();
    tokio::pin!(removing);
    let mut made = 0;
    loop {
        let create = ["create", "--dry-run=server", "-f", "-"];
        tokio::select! {
            removed = &mut removing => {
                removed?;
                break;
            }
            tried = cluster.with_manifest(&create, pod) => {
                tried.context("refused while the chart went away")?;
                made += 1;
            }
        }
    }
    ensure!(made > 0, "no pod was made while the chart went away");
    uninstall(ground).await
}

async fn remove() -> anyhow::Result<()> {
    let arguments = [
        "uninstall",
        "outrigger",
        "--namespace",
        NAMESPACE,
        "--wait",
        "--ignore-not-found",
        "--timeout=180s",
    ];
    run("helm", &arguments, "").await.map(drop)
}

/// Uninstalls, with sidecars still in the cluster, and looks for what is left.
pub(crate) async fn uninstall(ground: &Ground) -> anyhow::Result<()> {
    let cluster = &ground.cluster;
    remove().await?;
    // What the control plane made itself goes with it, as soon as the garbage collector looks.
    until(|| async {
        let left = cluster
            .kubectl(&[
                "get",
                OURS,
                "-A",
                "-o",
                "name",
                "-l",
                "app.kubernetes.io/name=outrigger",
            ])
            .await?;
        ensure!(left.trim().is_empty(), "left behind: {left}");
        Ok(())
    })
    .await?;
    let within = seconds(DEADLINE);
    cluster
        .kubectl(&[
            "delete",
            "namespace",
            "e2e",
            "e2e-outside",
            "e2e-opted-out",
            NAMESPACE,
            "--ignore-not-found",
            &within,
        ])
        .await
        .map(drop)
}

/// A page of a pod's port 15020.
pub(crate) async fn metrics(pod: &Value) -> anyhow::Result<String> {
    let (status, page) = get(address(pod)?, 15020, "/metrics").await?;
    ensure!(status == 200, "metrics answer {status}");
    Ok(page)
}
