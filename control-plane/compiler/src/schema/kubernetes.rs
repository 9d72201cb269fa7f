//! Fields of Kubernetes' own kinds (v1 Service, Pod, Node, Namespace, ServiceAccount; discovery.k8s.io
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

pub(crate) const NAMESPACE: Shape = Shape::Object(OPAQUE);

/// Of a kind of which no field of its own is checked.
const OPAQUE: &[Field] = &[
    API_VERSION,
    KIND,
    METADATA,
    ignored("spec"),
    ignored("status"),
];

pub(crate) const SERVICE_ACCOUNT: Shape = Shape::Object(&[
    API_VERSION,
    KIND,
    METADATA,
    ignored("secrets"),
    ignored("imagePullSecrets"),
    ignored("automountServiceAccountToken"),
]);

/// Of a Pod a few fields of `spec` and `status` are read, whatever else is there: people write
/// templates of them, not Pods, and those that Kubernetes made are not theirs to correct.
pub(crate) const POD: Shape = Shape::Object(OPAQUE);

/// Of a Node the topology labels are read.
pub(crate) const NODE: Shape = POD;

/// A kind that is a `spec` of these fields.
macro_rules! kind {
    ($spec:expr) => {
        $crate::schema::Shape::Object(&[
            $crate::schema::kubernetes::API_VERSION,
            $crate::schema::kubernetes::KIND,
            $crate::schema::kubernetes::METADATA,
            $crate::schema::required("spec", $crate::schema::Shape::Object($spec)),
            $crate::schema::ignored("status"),
        ])
    };
}
pub(super) use kind;

pub(crate) const SERVICE: Shape = kind!(SERVICE_SPEC);

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
    used("ipFamilies", Shape::List(&Shape::Enum(&["IPv4", "IPv6"]))),
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
    // Kubernetes writes `null` while there are none.
    used("endpoints", Shape::Bulk(&Shape::Object(SLICE_ENDPOINT))),
]);

const SLICE_PORT: &[Field] = &[
    used("name", Shape::Text),
    used("port", PORT),
    used("protocol", Shape::Enum(&["TCP", "UDP", "SCTP"])),
    ignored("appProtocol"),
];

const TARGET_REF: &[Field] = &[
    used("kind", Shape::Text),
    used("name", Shape::Text),
    ignored("namespace"),
    ignored("uid"),
    ignored("apiVersion"),
    ignored("fieldPath"),
    ignored("resourceVersion"),
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
    used("nodeName", Shape::Text),
    used("targetRef", Shape::Object(TARGET_REF)),
    ignored("deprecatedTopology"),
    ignored("topology"),
];
