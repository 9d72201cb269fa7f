//! What the control plane may do in the cluster: this list, and nothing more.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::cluster::Cluster;

/// In all namespaces: resource, or resource/name, and verbs.
const CLUSTER: &[&str] = &[
    "services list,watch",
    "pods list,watch",
    "namespaces list,watch",
    "nodes list,watch",
    "pods get",
    "endpointslices list,watch",
    "virtualservices list,watch",
    "destinationrules list,watch",
    "serviceentries list,watch",
    "workloadentries list,watch",
    "httproutes list,watch",
    "grpcroutes list,watch",
    "referencegrants list,watch",
    "tokenreviews create",
    "configmaps create",
    "configmaps/outrigger-root list,watch,patch",
    "clusterroles/outrigger-outrigger-system get",
    "mutatingwebhookconfigurations/outrigger-injector-outrigger-system list,watch,patch",
];

/// In its own.
const OWN: &[&str] = &[
    "secrets create",
    "secrets/outrigger-ca get",
    "leases create",
    "leases/outrigger-leader get,update",
];

/// Compares the rules of every role that is bound to the control plane's service account.
pub(crate) async fn are_least(cluster: &Cluster) -> anyhow::Result<()> {
    for (kind, expected) in [("clusterrole", CLUSTER), ("role", OWN)] {
        let bindings = cluster.get(&[&format!("{kind}bindings"), "-A"]).await?;
        let bindings = bindings["items"]
            .as_array()
            .context("no list of bindings")?;
        let mut found = BTreeSet::new();
        for binding in bindings.iter().filter(|binding| is_ours(binding)) {
            let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
            let named = format!("{kind}/{name}");
            let role = cluster.get(&[&named, "-n", "outrigger-system"]).await?;
            let rules = role["rules"].as_array().context("no rules")?;
            found.extend(rules.iter().flat_map(rights));
        }
        let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
        let more: Vec<_> = found.difference(&expected).collect();
        let less: Vec<_> = expected.difference(&found).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "{kind}: more rights than listed: {more:?}; fewer: {less:?}"
        );
    }
    Ok(())
}

fn is_ours(binding: &Value) -> bool {
    let subjects = binding["subjects"].as_array();
    subjects.into_iter().flatten().any(|subject| {
        subject["kind"] == "ServiceAccount"
            && subject["namespace"] == "outrigger-system"
            && subject["name"] == "outrigger"
    })
}

/// A rule as lines of the lists above.
fn rights(rule: &Value) -> Vec<String> {
    let texts = |field: &str| -> Vec<String> {
        let all = rule[field].as_array();
        let texts = all.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let verbs = texts("verbs").join(",");
    let names = texts("resourceNames");
    let mut lines = Vec::new();
    for resource in texts("resources").iter().chain(&texts("nonResourceURLs")) {
        if names.is_empty() {
            lines.push(format!("{resource} {verbs}"));
        }
        lines.extend(
            names
                .iter()
                .map(|name| format!("{resource}/{name} {verbs}")),
        );
    }
    lines
}
