//! The mesh of the check: a client, and one workload for each backend.

/// The namespace of everything here.
const NAMESPACE: &str = "differential";

/// Service and port of the backend `name`, as the client's outbound listeners are keyed.
#[must_use]
pub fn host(name: &str) -> String {
    format!("{name}.{NAMESPACE}.svc.cluster.local:80")
}

/// Manifests for backends that listen on these ports of 127.0.0.1.
#[must_use]
pub fn of(backends: &[(&str, u16)]) -> String {
    let mut text = format!(
        r"
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, namespace: {NAMESPACE}}}
spec:
  address: 127.9.0.1
  labels: {{app: client}}
"
    );
    for (index, (name, port)) in backends.iter().enumerate() {
        let address = index + 2;
        text.push_str(&format!(
            r"---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  address: 127.9.0.{address}
  labels: {{app: {name}}}
  ports: {{http: {port}}}
"
        ));
    }
    text
}
