//! The containers and volumes of a sidecar, and its bootstrap.

use serde_json::{Map, Value, json};

use super::{
    REDIRECT, SIDECAR, USER,
    annotation::Options,
    pod::{list, list_mut, name},
    port,
    settings::{Capture, Placement, Settings},
};

/// Volume with the token that proves the workload, and the mesh's root certificate.
const IDENTITY: &str = "outrigger-identity";
/// Volume for what survives a restart of the container: the last good configuration, no keys.
const STATE: &str = "outrigger-state";

const IDENTITY_PATH: &str = "/var/run/outrigger";
const STATE_PATH: &str = "/var/lib/outrigger";

/// Times that the sidecar may be asked for its readiness before the pod fails, once a second.
const STARTUP_TRIES: u32 = 120;

/// The sidecar's bootstrap: what `outrigger-proxy` reads from `OUTRIGGER_BOOTSTRAP`. `$(NAME)` is
/// put in by Kubernetes from the variables before it.
pub(super) fn bootstrap(
    settings: &Settings,
    options: &Options,
    probes: Vec<Value>,
    scrape: Option<Value>,
) -> Value {
    let mut bootstrap = json!({
        "workload": "$(POD_NAMESPACE)/$(POD_NAME)",
        "service_account": "$(SERVICE_ACCOUNT)",
        "trust_domain": settings.trust_domain,
        "control_plane": settings.control_plane,
        "control_plane_identity": settings.control_plane_identity,
        "root_file": format!("{IDENTITY_PATH}/ca.crt"),
        "token_file": format!("{IDENTITY_PATH}/token"),
        "state_dir": STATE_PATH,
        "admin": format!("[::]:{}", port::ADMIN),
        "health": format!("[::]:{}", port::HEALTH),
        "capture": {
            "outbound": format!("[::]:{}", port::OUTBOUND),
            "inbound": format!("[::]:{}", port::INBOUND),
        },
        "workers": options.workers,
        "log": options.log,
        "drain_seconds": options.drain.as_secs(),
    });
    if let Value::Object(fields) = &mut bootstrap {
        if !probes.is_empty() {
            fields.insert("probes".into(), probes.into());
        }
        if let Some(scrape) = scrape {
            fields.insert("applications_metrics".into(), scrape);
        }
    }
    bootstrap
}

/// Adds containers and volumes.
pub(super) fn add(pod: &mut Value, settings: &Settings, options: &Options, bootstrap: &Value) {
    let sidecar = sidecar(settings, options, bootstrap);
    let mut first = Vec::new();
    if settings.capture == Capture::Init {
        first.push(redirect(settings, options));
    }
    match settings.placement {
        // Before the pod's own init containers, which then have network through it.
        Placement::Native => first.push(sidecar),
        Placement::Container => list(pod, "containers").insert(0, sidecar),
    }
    if !first.is_empty() {
        list(pod, "initContainers").splice(0..0, first);
    }
    list(pod, "volumes").extend([
        json!({
            "name": IDENTITY,
            "projected": {"sources": [
                {"serviceAccountToken": {"audience": "outrigger-ca", "expirationSeconds": 3600, "path": "token"}},
                {"configMap": {"name": settings.root_config_map, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]},
        }),
        json!({"name": STATE, "emptyDir": {"sizeLimit": "64Mi"}}),
    ]);
}

/// Takes them out again.
pub(super) fn remove(pod: &mut Value) {
    for containers in ["initContainers", "containers"] {
        if let Some(containers) = list_mut(pod, containers) {
            containers.retain(|container| ![SIDECAR, REDIRECT].contains(&name(container)));
        }
    }
    if let Some(volumes) = list_mut(pod, "volumes") {
        volumes.retain(|volume| ![IDENTITY, STATE].contains(&name(volume)));
    }
}

fn sidecar(settings: &Settings, options: &Options, bootstrap: &Value) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let ready = json!({"path": "/ready", "port": port::HEALTH});
    let mut container = json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IP", "status.podIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            {"name": "OUTRIGGER_BOOTSTRAP", "value": bootstrap.to_string()},
        ],
        "ports": [{"name": "mesh-metrics", "containerPort": port::ADMIN, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "failureThreshold": 3},
        "resources": resources(options),
        "securityContext": security(),
        "volumeMounts": [
            {"name": IDENTITY, "mountPath": IDENTITY_PATH, "readOnly": true},
            {"name": STATE, "mountPath": STATE_PATH},
        ],
    });
    if let Value::Object(fields) = &mut container {
        match settings.placement {
            Placement::Native => {
                fields.insert("restartPolicy".into(), "Always".into());
                let probe = json!({"httpGet": ready, "periodSeconds": 1, "failureThreshold": STARTUP_TRIES});
                fields.insert("startupProbe".into(), probe);
            }
            // The kubelet starts the next container when this hook has returned.
            Placement::Container => {
                let command = json!([
                    "outrigger-proxy",
                    "wait",
                    "--timeout",
                    STARTUP_TRIES.to_string()
                ]);
                fields.insert(
                    "lifecycle".into(),
                    json!({"postStart": {"exec": {"command": command}}}),
                );
            }
        }
    }
    container
}

/// What a sidecar may: nothing (DEF-37).
fn security() -> Value {
    json!({
        "runAsUser": USER,
        "runAsGroup": USER,
        "runAsNonRoot": true,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn resources(options: &Options) -> Value {
    let wanted = &options.resources;
    let mut resources = Map::new();
    let parts = [
        ("requests", &wanted.cpu_request, &wanted.memory_request),
        ("limits", &wanted.cpu_limit, &wanted.memory_limit),
    ];
    for (part, cpu, memory) in parts {
        let quantities: Map<String, Value> = [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .filter_map(|(name, quantity)| Some((name.into(), quantity.clone()?.into())))
            .collect();
        if !quantities.is_empty() {
            resources.insert(part.into(), quantities.into());
        }
    }
    resources.into()
}

/// Writes the rules in the pod's network namespace, then ends (DEF-38).
fn redirect(settings: &Settings, options: &Options) -> Value {
    let mut arguments = vec![
        "redirect".to_owned(),
        "--outbound-port".into(),
        port::OUTBOUND.to_string(),
        "--inbound-port".into(),
        port::INBOUND.to_string(),
        "--uid".into(),
        USER.to_string(),
    ];
    fn joined<T: ToString>(items: &[T]) -> String {
        items
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    }
    for (flag, value) in [
        ("--skip-inbound-ports", joined(&options.skip_inbound_ports)),
        (
            "--skip-outbound-ports",
            joined(&options.skip_outbound_ports),
        ),
        (
            "--skip-outbound-ranges",
            joined(&options.skip_outbound_ranges),
        ),
        (
            "--only-outbound-ranges",
            joined(&options.only_outbound_ranges),
        ),
    ] {
        if !value.is_empty() {
            arguments.extend([flag.into(), value]);
        }
    }
    json!({
        "name": REDIRECT,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": arguments,
        "resources": resources(options),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}
