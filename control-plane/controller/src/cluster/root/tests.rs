//! Secret and ConfigMaps against a fake API server, by a clock that jumps.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::*;
use crate::cluster::fake::{Fake, Outage};

const SECRETS: &str = "/api/v1/secrets";
const MAPS: &str = "/api/v1/configmaps";

fn names() -> (Namespace, TrustDomain) {
    let namespace = Namespace::parse("outrigger-system").unwrap();
    (namespace, TrustDomain::parse("cluster.local").unwrap())
}

async fn open(fake: &Fake) -> Result<CertificateAuthority, RootError> {
    let (namespace, trust_domain) = names();
    authority(&fake.api(), &namespace, &trust_domain, &Owner::default()).await
}

fn roots(authority: &CertificateAuthority) -> Vec<Arc<[u8]>> {
    authority.trust_bundle().roots
}

#[tokio::test(start_paused = true)]
async fn replicas_that_start_together_have_one_root() {
    let fake = Fake::new();
    let mut replicas = JoinSet::new();
    for _ in 0..5 {
        let fake = fake.clone();
        replicas.spawn(async move { roots(&open(&fake).await.unwrap()) });
    }
    let all: BTreeSet<_> = replicas.join_all().await.into_iter().collect();
    assert_eq!(all.len(), 1);
    // And one that comes later, too.
    assert!(all.contains(&roots(&open(&fake).await.unwrap())));
    assert_eq!(fake.world().all(SECRETS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_waited_for() {
    let fake = Fake::new();
    fake.world().outage = Outage::Cut;
    assert!(
        timeout(Duration::from_secs(300), open(&fake))
            .await
            .is_err()
    );
    fake.world().outage = Outage::None;
    timeout(Duration::from_secs(60), open(&fake))
        .await
        .unwrap()
        .unwrap();
}

/// A root, and an issuer below it that may sign issuers: what cert-manager's CA issuer gives.
fn brought() -> (String, String, String) {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root_params = authority("root");
    let root = root_params.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(root_params, root_key);
    let middle = authority("middle").signed_by(&key, &issuer).unwrap();
    (root.pem(), middle.pem(), key.serialize_pem())
}

fn secret(entries: &[(&str, &str)]) -> Value {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let data = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into()));
    let data: serde_json::Map<String, Value> = data.collect();
    json!({"metadata": {"namespace": "outrigger-system", "name": SECRET}, "data": data})
}

#[tokio::test(start_paused = true)]
async fn a_root_that_the_user_brings_is_used_in_either_layout() {
    let (root, middle, key) = brought();
    let chain = format!("{middle}{root}");
    for entries in [
        [("ca.crt", chain.as_str()), ("ca.key", &key), ("x", "")],
        [
            ("tls.crt", middle.as_str()),
            ("tls.key", &key),
            ("ca.crt", &root),
        ],
        [
            ("tls.crt", chain.as_str()),
            ("tls.key", &key),
            ("ca.crt", &root),
        ],
    ] {
        let fake = Fake::new();
        fake.world().put(SECRETS, secret(&entries));
        let authority = open(&fake).await.unwrap();
        let expected = pem::parse(&root).unwrap().into_contents();
        assert!(roots(&authority).iter().all(|found| **found == *expected));
        assert_eq!(fake.world().count(&["POST"]), 0, "it is never changed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_not_filled_yet_is_waited_for_and_a_wrong_one_is_an_error() {
    let (root, middle, key) = brought();
    let fake = Fake::new();
    fake.world()
        .put(SECRETS, secret(&[("tls.crt", ""), ("ca.crt", &root)]));
    assert!(timeout(Duration::from_secs(60), open(&fake)).await.is_err());
    fake.world().put(
        SECRETS,
        secret(&[("tls.crt", &middle), ("tls.key", &key), ("ca.crt", &root)]),
    );
    open(&fake).await.unwrap();
    fake.world()
        .put(SECRETS, secret(&[("ca.crt", &root), ("ca.key", &key)]));
    let error = open(&fake).await.err().unwrap().to_string();
    assert!(
        error.contains("Secret outrigger-system/outrigger-ca ca.key"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_a_mesh_that_was_uninstalled_is_not_used_any_more() {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let fake = Fake::new();
    let (namespace, trust_domain) = names();
    let role = |uid: &str| json!({"metadata": {"name": "mesh", "uid": uid}});
    fake.world().put(roles, role("first"));
    let api = fake.api();
    let owner = Owner::cluster_role(&api, "mesh").await;
    let first = authority(&api, &namespace, &trust_domain, &owner).await;
    fake.world().put(roles, role("second"));
    let owner = Owner::cluster_role(&api, "mesh").await;
    let again = authority(&api, &namespace, &trust_domain, &owner);
    tokio::pin!(again);
    let early = timeout(Duration::from_secs(300), &mut again).await;
    assert!(early.is_err(), "the Secret is about to be collected");
    fake.world()
        .delete(SECRETS, &format!("outrigger-system/{SECRET}"));
    let second = timeout(Duration::from_secs(300), again).await.unwrap();
    assert_ne!(roots(&first.unwrap()), roots(&second.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_the_root_certificate_whatever_is_done_to_it() {
    let fake = Fake::new();
    let all = |names: &[&str]| -> BTreeSet<Namespace> {
        names
            .iter()
            .map(|name| Namespace::parse(name).unwrap())
            .collect()
    };
    let held = || {
        let world = fake.world();
        let maps = world.all(MAPS);
        let of_ours = maps
            .iter()
            .filter(|map| map["metadata"]["name"] == CONFIG_MAP);
        of_ours
            .map(|map| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (
                    text(&map["metadata"]["namespace"]),
                    text(&map["data"]["ca.crt"]),
                )
            })
            .collect::<Vec<_>>()
    };
    let pair = |namespace: &str, root: &str| (namespace.to_owned(), root.to_owned());
    fake.world().put(
        MAPS,
        json!({"metadata": {"namespace": "a", "name": "theirs"}, "data": {}}),
    );
    let (namespaces, seen_namespaces) = watch::channel(all(&["a", "b"]));
    let (roots, seen_roots) = watch::channel("one".to_owned());
    let mut task = JoinSet::new();
    task.spawn(keep(
        fake.api(),
        seen_namespaces,
        seen_roots,
        Owner::default(),
    ));
    let soon = Duration::from_secs(1);
    sleep(soon).await;
    assert_eq!(held(), [pair("a", "one"), pair("b", "one")]);
    // Deleted, changed, a new namespace, a new root.
    fake.world().delete(MAPS, &format!("a/{CONFIG_MAP}"));
    fake.world().put(
        MAPS,
        json!({"metadata": {"namespace": "b", "name": CONFIG_MAP}, "data": {"ca.crt": "x"}}),
    );
    namespaces.send_replace(all(&["a", "b", "c"]));
    sleep(soon).await;
    assert_eq!(
        held(),
        [pair("a", "one"), pair("b", "one"), pair("c", "one")]
    );
    roots.send_replace("two".to_owned());
    sleep(soon).await;
    assert_eq!(
        held(),
        [pair("a", "two"), pair("b", "two"), pair("c", "two")]
    );
    // All is well: it is not written again and again.
    let writes = || {
        let world = fake.world();
        world.count(&["POST"]) + world.count(&["PATCH"])
    };
    let before = writes();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(writes(), before);
    // An outage is waited out.
    fake.world().outage = Outage::Code(500);
    namespaces.send_replace(all(&["a", "b", "c", "d"]));
    sleep(Duration::from_secs(60)).await;
    fake.world().outage = Outage::None;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(held().last(), Some(&pair("d", "two")));
}
