//! Fields of Kubernetes' own kinds (v1 Service, Namespace, ServiceAccount; discovery.k8s.io
//! EndpointSlice), as their API reference lists them.

use super::{Field, PORT, Shape, ignored, later, required, used};

const METADATA_FIELDS: &[Field] = &[
    used("name", Shape::Text),
    used("namespace", Shape::Text),
    used("labels", Shape::Labels),
    used("annotations", Shape::Labels),
    used("creationTimestamp", Shape::Text),
    ignored("uid"),
    ignored("resourceVersion"),
    ignored("generation"),
    ignored("generateName"),
    ignored("selfLink"),
    ignored("deletionTimestamp"),
    ignored("deletionGracePeriodSeconds"),
    ignored("ownerReferences"),
    ignored("finalizers"),
    ignored("managedFields"),
];

pub(super) const METADATA: Field = required("metadata", Shape::Object(METADATA_FIELDS));
pub(super) const API_VERSION: Field = ignored("apiVersion");
pub(super) const KIND: Field = ignored("kind");

pub(crate) const NAMESPACE: Shape = Shape::Object(&[
    API_VERSION,
    KIND,
    METADATA,
    ignored("spec"),
    ignored("status"),
]);

pub(crate) const SERVICE_ACCOUNT: Shape = Shape::Object(&[
    API_VERSION,
    KIND,
    METADATA,
    ignored("secrets"),
    ignored("imagePullSecrets"),
    ignored("automountServiceAccountToken"),
]);

pub(crate) const SERVICE: Shape = Shape::Object(&[
    API_VERSION,
    KIND,
    METADATA,
    required("spec", Shape::Object(SERVICE_SPEC)),
    ignored("status"),
]);

const SERVICE_SPEC: &[Field] = &[
    used(
        "type",
        Shape::Enum(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    ),
    used("selector", Shape::Labels),
    used("clusterIP", Shape::Text),
    used("clusterIPs", Shape::List(&Shape::Text)),
    used("ports", Shape::List(&Shape::Object(SERVICE_PORT))),
    later("externalName", Shape::Text),
    later("externalIPs", Shape::List(&Shape::Text)),
    later("sessionAffinity", Shape::Text),
    later("sessionAffinityConfig", Shape::Any),
    later("internalTrafficPolicy", Shape::Text),
    later("publishNotReadyAddresses", Shape::Bool),
    later("trafficDistribution", Shape::Text),
    // How traffic enters a cluster from outside is no business of a sidecar.
    ignored("loadBalancerIP"),
    ignored("loadBalancerClass"),
    ignored("loadBalancerSourceRanges"),
    ignored("allocateLoadBalancerNodePorts"),
    ignored("externalTrafficPolicy"),
    ignored("healthCheckNodePort"),
    ignored("ipFamilies"),
    ignored("ipFamilyPolicy"),
];

const SERVICE_PORT: &[Field] = &[
    used("name", Shape::Text),
    required("port", PORT),
    used("targetPort", Shape::PortOrName),
    used("protocol", Shape::Enum(&["TCP", "UDP", "SCTP"])),
    used("appProtocol", Shape::Text),
    ignored("nodePort"),
];

pub(crate) const ENDPOINT_SLICE: Shape = Shape::Object(&[
    API_VERSION,
    KIND,
    METADATA,
    required("addressType", Shape::Enum(&["IPv4", "IPv6", "FQDN"])),
    used("ports", Shape::List(&Shape::Object(SLICE_PORT))),
    required("endpoints", Shape::Bulk(&Shape::Object(SLICE_ENDPOINT))),
]);

const SLICE_PORT: &[Field] = &[
    used("name", Shape::Text),
    used("port", PORT),
    used("protocol", Shape::Enum(&["TCP", "UDP", "SCTP"])),
    ignored("appProtocol"),
];

const SLICE_ENDPOINT: &[Field] = &[
    required("addresses", Shape::List(&Shape::Text)),
    used(
        "conditions",
        Shape::Object(&[
            used("ready", Shape::Bool),
            used("serving", Shape::Bool),
            used("terminating", Shape::Bool),
        ]),
    ),
    used("zone", Shape::Text),
    later("hints", Shape::Any),
    ignored("hostname"),
    ignored("nodeName"),
    ignored("targetRef"),
    ignored("deprecatedTopology"),
    ignored("topology"),
];
