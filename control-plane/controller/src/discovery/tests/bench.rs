//! A discovery server and sidecars in one process: real gRPC over pipes in memory.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use outrigger_model::*;
use outrigger_proto::wire::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    rpc,
};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Endpoint as Target, server::Connected},
};

use super::super::{DiscoveryHandle, Published, Update, Upsert};
use crate::transport::PeerInfo;

/// Nothing in these tests takes longer on an idle machine than a fraction of this.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// The server's end of a connection whose peer is known.
pub(super) struct Pipe {
    stream: DuplexStream,
    peer: PeerInfo,
}

impl Connected for Pipe {
    type ConnectInfo = PeerInfo;
    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The control plane.
pub(super) struct Bench {
    pub(super) handle: DiscoveryHandle,
    pub(super) registry: Registry,
    pipes: mpsc::Sender<io::Result<Pipe>>,
    _server: JoinSet<Result<(), tonic::transport::Error>>,
}

impl Bench {
    pub(super) fn start() -> Self {
        Self::with(DiscoveryHandle::new)
    }

    /// Lets in so many streams a second.
    pub(super) fn admitting(per_second: u32) -> Self {
        let per_second = NonZeroU32::new(per_second).unwrap();
        Self::with(|registry| DiscoveryHandle::admitting(per_second, registry))
    }

    fn with(new: impl FnOnce(&Registry) -> Result<DiscoveryHandle, prometheus::Error>) -> Self {
        let registry = Registry::new();
        let handle = new(&registry).unwrap();
        let (pipes, incoming) = mpsc::channel(64);
        let mut server = JoinSet::new();
        let router = crate::transport::server().add_service(handle.server());
        server.spawn(router.serve_with_incoming(ReceiverStream::new(incoming)));
        Self {
            handle,
            registry,
            pipes,
            _server: server,
        }
    }

    pub(super) fn metrics(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    #[track_caller]
    pub(super) fn assert_metric(&self, line: &str) {
        let metrics = self.metrics();
        assert!(
            metrics.lines().any(|each| each == line),
            "{line}\n{metrics}"
        );
    }

    /// Publishes a batch.
    pub(super) fn publish(&self, upserts: Vec<Resource>, removals: &[ResourceName]) -> Published {
        self.handle.publish(Update {
            upserts: upserts.into_iter().map(everywhere).collect(),
            removals: removals.to_vec(),
            ..Update::default()
        })
    }

    /// Publishes what authorities mean: `host:port` to `namespace/name:port`, in any namespace.
    pub(super) fn publish_aliases(&self, aliases: &[(&str, &str)]) {
        let aliases: BTreeMap<Authority, DestinationName> = aliases
            .iter()
            .map(|(from, to)| (Authority::parse(from, None).unwrap(), to.parse().unwrap()))
            .collect();
        self.handle.publish(Update {
            resolve: Some(Arc::new(move |_: &Namespace, authority: &Authority| {
                aliases.get(authority).cloned()
            })),
            ..Update::default()
        });
    }

    /// A stream as this workload, `namespace/name`, with its identity.
    pub(super) async fn sidecar(&self, workload: &str) -> Sidecar {
        let identity = identity(workload);
        self.open(Some(identity), workload).await.unwrap()
    }

    pub(super) async fn open(
        &self,
        identity: Option<SpiffeId>,
        workload: &str,
    ) -> Result<Sidecar, Status> {
        self.open_until(None, identity, workload).await
    }

    /// On a connection whose certificate ends then.
    pub(super) async fn open_until(
        &self,
        ends: Option<Instant>,
        identity: Option<SpiffeId>,
        workload: &str,
    ) -> Result<Sidecar, Status> {
        let (client, stream) = tokio::io::duplex(64 * 1024);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let peer = PeerInfo {
            address,
            identity,
            ends,
        };
        self.pipes.send(Ok(Pipe { stream, peer })).await.unwrap();
        let mut client = Some(client);
        let connector = tower::service_fn(move |_| {
            let stream = client.take().ok_or_else(|| io::Error::other("one use"));
            std::future::ready(stream.map(TokioIo::new))
        });
        let channel = Target::from_static("http://control-plane")
            .connect_with_connector(connector)
            .await
            .unwrap();
        let (requests, outgoing) = mpsc::channel(16);
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Sidecar {
            workload: workload.to_owned(),
            requests,
            responses,
        })
    }
}

/// A client that does only what a test tells it to.
pub(super) struct Sidecar {
    workload: String,
    pub(super) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(super) responses: Streaming<DeltaDiscoveryResponse>,
}

impl Sidecar {
    pub(super) async fn send(&self, kind: ResourceKind, request: DeltaDiscoveryRequest) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                id: self.workload.clone(),
                ..Node::default()
            }),
            type_url: kind.type_url().to_owned(),
            ..request
        };
        self.requests.send(request).await.unwrap();
    }

    pub(super) async fn subscribe(&self, kind: ResourceKind, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: texts(names),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(kind, request).await;
    }

    /// Subscribes on a new stream, holding these versions.
    pub(super) async fn resume(
        &self,
        kind: ResourceKind,
        names: &[&str],
        versions: &[(&str, &str)],
    ) {
        let versions = versions
            .iter()
            .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: texts(names),
            initial_resource_versions: versions.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(kind, request).await;
    }

    /// The next response, not answered yet.
    pub(super) async fn receive(&mut self) -> Result<Response, Status> {
        let message = timeout(DEADLINE, self.responses.message()).await;
        let response = message.expect("a response within the deadline")?;
        let response = response.expect("the stream goes on");
        let kind = ResourceKind::from_type_url(&response.type_url).unwrap();
        Ok(Response { kind, response })
    }

    pub(super) async fn ack(&self, response: &Response) {
        self.answer(response, None).await;
    }

    pub(super) async fn nack(&self, response: &Response, reason: &str) {
        let error = rpc::Status {
            code: 3,
            message: reason.to_owned(),
        };
        self.answer(response, Some(error)).await;
    }

    async fn answer(&self, response: &Response, error_detail: Option<rpc::Status>) {
        let request = DeltaDiscoveryRequest {
            response_nonce: response.response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.send(response.kind, request).await;
    }

    /// Receives, accepts, and shows as `+name` and `-name`, in this order.
    pub(super) async fn expect(&mut self, kind: ResourceKind, expected: &[&str]) -> Response {
        let response = self.receive().await.unwrap();
        assert_eq!((response.kind, response.shown()), (kind, texts(expected)));
        self.ack(&response).await;
        response
    }

    /// Everything sent so far has been received: the answer to one more question comes next.
    pub(super) async fn expect_nothing(&mut self) {
        self.subscribe(ResourceKind::RouteTable, &["nowhere/nothing:1"])
            .await;
        self.expect(ResourceKind::RouteTable, &["-nowhere/nothing:1"])
            .await;
    }
}

/// A response with its kind.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) kind: ResourceKind,
    pub(super) response: DeltaDiscoveryResponse,
}

impl Response {
    pub(super) fn shown(&self) -> Vec<String> {
        let resources = self.response.resources.iter();
        let removed = self.response.removed_resources.iter();
        resources
            .map(|resource| {
                let mut shown = format!("+{}", resource.name);
                for alias in &resource.aliases {
                    shown = format!("{shown} ={alias}");
                }
                shown
            })
            .chain(removed.map(|name| format!("-{name}")))
            .collect()
    }

    pub(super) fn version(&self) -> &str {
        &self.response.resources[0].version
    }

    /// The first resource, decoded.
    pub(super) fn decoded(&self) -> Resource {
        let any = self.response.resources[0].resource.as_ref().unwrap();
        outrigger_proto::decode(self.kind, &any.value).unwrap()
    }
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// `spiffe://cluster.local/ns/NAMESPACE/sa/NAME`.
pub(super) fn identity(workload: &str) -> SpiffeId {
    let workload: WorkloadName = workload.parse().unwrap();
    let WorkloadName { namespace, name } = workload;
    format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
        .parse()
        .unwrap()
}

pub(super) fn everywhere(resource: Resource) -> Upsert {
    Upsert {
        default: Arc::new(resource),
        per_namespace: BTreeMap::new(),
    }
}

pub(super) fn settings(drain_seconds: u64) -> Resource {
    Resource::MeshSettings(MeshSettings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        access_log: AccessLog::Failures,
        tracing: Tracing::Off,
        drain_timeout: Duration::from_secs(drain_seconds),
    })
}

pub(super) fn destination(name: &str, shards: u16) -> Resource {
    let threshold = EjectionThreshold::Never;
    let minute = Duration::from_secs(60);
    Resource::Destination(Destination {
        name: name.parse().unwrap(),
        hosts: Vec::new(),
        vips: Vec::new(),
        protocol: Protocol::Http,
        policy: TrafficPolicy {
            origin: Origin::default_behavior(),
            balancer: Balancer::PeakEwma,
            limits: ConnectionLimits {
                connections_max: 1,
                pending_max: 1,
                pending_timeout: minute,
                requests_max: 1,
                requests_per_connection: RequestsPerConnection::Unlimited,
                retries_max: 1,
                connect_timeout: minute,
                idle_timeout: Lifetime::Unlimited,
                connection_age: Lifetime::Unlimited,
            },
            outlier: OutlierDetection {
                consecutive_5xx: threshold,
                consecutive_gateway: threshold,
                interval: minute,
                base_ejection: minute,
                max_ejection: minute,
                max_ejection_percent: Percent::new(10).unwrap(),
                min_health_percent: Percent::new(0).unwrap(),
            },
        },
        subsets: Vec::new(),
        shards,
    })
}

/// A table of one TCP rule, whose origin makes tables differ.
pub(in crate::discovery) fn table(name: &str, origin: &str) -> Resource {
    let name: DestinationName = name.parse().unwrap();
    let backend = Backend {
        destination: name.clone(),
        subset: None,
    };
    let backends = vec![WeightedBackend {
        weight: Weight::ONE,
        backend,
    }];
    let origin = Origin::new(origin);
    Resource::RouteTable(RouteTable {
        name,
        http: Vec::new(),
        tcp: vec![TcpRule { origin, backends }],
    })
}

/// Endpoints 10.0.0.1 and following.
pub(super) fn shard(name: &str, endpoints: u8) -> Resource {
    let endpoint = |i| Endpoint {
        address: SocketAddr::from((Ipv4Addr::new(10, 0, 0, i), 8080)),
        weight: Weight::ONE,
        locality: Locality::default(),
        peer: Peer::Plain,
        state: EndpointState::Ready,
        subsets: Vec::new(),
    };
    Resource::EndpointShard(EndpointShard {
        name: name.parse().unwrap(),
        endpoints: (1..=endpoints).map(endpoint).collect(),
    })
}

pub(super) fn inbound(workload: &str) -> Resource {
    Resource::InboundPolicy(InboundPolicy {
        name: workload.parse().unwrap(),
        identity: identity(workload),
        default_mtls: MtlsMode::Strict,
        ports: Vec::new(),
    })
}
