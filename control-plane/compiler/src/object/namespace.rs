//! Namespace: what it says of the workloads in it.

use outrigger_model::MtlsMode;

use crate::{Node, istio::Reader};

/// Says whether workloads of the namespace take plain text: `strict`, the default, or `permissive`.
const MTLS_ANNOTATION: &str = "outrigger.dev/mtls";

/// Reads a Namespace. A value that is none of the two is reported, and strict.
pub(super) fn read(reader: &mut Reader, object: &Node) -> MtlsMode {
    let metadata = object.get("metadata");
    let annotations = metadata.and_then(|metadata| metadata.get("annotations"));
    let Some(written) = annotations.and_then(|all| all.get(MTLS_ANNOTATION)) else {
        return MtlsMode::Strict;
    };
    match written.text() {
        Some("permissive") => MtlsMode::Permissive,
        Some("strict") => MtlsMode::Strict,
        Some(_) | None => {
            let found = written.describe();
            let message = format!("{MTLS_ANNOTATION} is {found}: write strict or permissive");
            let path = "metadata.annotations";
            reader.refuse(path, written, message);
            MtlsMode::Strict
        }
    }
}
