//! The Gateway API from YAML to a sidecar's decision: compiled, encoded, decoded and matched as on
//! the wire. What the conformance profiles MESH-HTTP and MESH-GRPC ask of routes stands here in
//! our own words; `pair` shows the same filters on real connections.

mod decide;
mod grpc;
mod http;
mod precedence;
mod redirects;

/// A namespace with the service `echo` in front of `echo-v1` and `echo-v2`, as the conformance suite
/// lays it out: ports 80, 8080 and 7070.
const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: echo, namespace: mesh}, spec: {ports: [
  {name: http, port: 80, appProtocol: http}, {name: http-alt, port: 8080, appProtocol: http},
  {name: tcp, port: 9090}, {name: grpc, port: 7070, appProtocol: kubernetes.io/h2c}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo-v1, namespace: mesh}, spec: {ports: [
  {name: http, port: 80, appProtocol: http}, {name: http-alt, port: 8080, appProtocol: http},
  {name: grpc, port: 7070}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo-v2, namespace: mesh}, spec: {ports: [
  {name: http, port: 80, appProtocol: http}, {name: http-alt, port: 8080, appProtocol: http},
  {name: grpc, port: 7070}]}}
";
