//! Node: where its pods are.

use outrigger_model::Locality;

use crate::Node;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Istio's third level: Kubernetes has two.
const SUBZONE: &str = "topology.istio.io/subzone";

/// Reads the topology labels of a Node.
pub(super) fn read(object: &Node) -> Locality {
    let metadata = object.get("metadata");
    let labels = metadata.and_then(|metadata| metadata.get("labels"));
    let label = |name: &str| {
        let text = labels.and_then(|labels| labels.get(name)?.text());
        text.unwrap_or_default().into()
    };
    Locality {
        region: label(REGION),
        zone: label(ZONE),
        subzone: label(SUBZONE),
    }
}
