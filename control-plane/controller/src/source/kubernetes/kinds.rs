//! Which kinds are watched, and where the API server serves them.
//!
//! A row a kind. One that the compiler does not know ([`Kind::find`]) is not watched, so that a row
//! may stand here before the compiler reads it.

use outrigger_compiler::Kind;

/// A kind of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// API group, empty for the core group.
    pub(super) group: &'static str,
    /// Versions in the order in which they are wanted; the first that is served is watched.
    pub(super) versions: &'static [&'static str],
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    /// Whether every cluster serves it, so that there is nothing to look up.
    pub(super) is_built_in: bool,
}

const V1: &[&str] = &["v1"];
const ISTIO: (&str, &[&str]) = ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]);
const GATEWAY: (&str, &[&str]) = ("gateway.networking.k8s.io", &["v1", "v1beta1"]);

/// All of them.
pub(super) const ROWS: &[Row] = &[
    built_in("", "Namespace", "namespaces"),
    built_in("", "Node", "nodes"),
    built_in("", "Service", "services"),
    built_in("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    built_in("", "Pod", "pods"),
    custom(ISTIO, "VirtualService", "virtualservices"),
    custom(ISTIO, "DestinationRule", "destinationrules"),
    custom(ISTIO, "ServiceEntry", "serviceentries"),
    custom(ISTIO, "WorkloadEntry", "workloadentries"),
    custom(GATEWAY, "HTTPRoute", "httproutes"),
    custom(GATEWAY, "GRPCRoute", "grpcroutes"),
    custom(GATEWAY, "ReferenceGrant", "referencegrants"),
];

const fn built_in(group: &'static str, kind: &'static str, plural: &'static str) -> Row {
    Row {
        group,
        versions: V1,
        kind,
        plural,
        is_built_in: true,
    }
}

const fn custom(
    (group, versions): (&'static str, &'static [&'static str]),
    kind: &'static str,
    plural: &'static str,
) -> Row {
    Row {
        group,
        versions,
        kind,
        plural,
        is_built_in: false,
    }
}

impl Row {
    /// The rows whose kind the compiler reads, each with the kind.
    pub(super) fn used() -> impl Iterator<Item = (Kind, &'static Self)> {
        ROWS.iter().filter_map(|row| {
            let known = row.readable().next()?;
            Some((Kind::find(&row.api_version(known), row.kind)?, row))
        })
    }

    /// Versions that the compiler reads.
    pub(super) fn readable(&self) -> impl Iterator<Item = &'static str> {
        let row = *self;
        self.versions
            .iter()
            .copied()
            .filter(move |version| Kind::find(&row.api_version(version), row.kind).is_some())
    }

    /// `apiVersion` of its objects.
    pub(super) fn api_version(&self, version: &str) -> String {
        match self.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Path of its objects in all namespaces.
    pub(super) fn path(&self, version: &str) -> String {
        format!("{}/{}", group_path(self.group, version), self.plural)
    }
}

/// Path of a version of a group.
pub(super) fn group_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_compiled_is_watched() {
        // A service account is known by what its pods say of it.
        for kind in Kind::ALL {
            let rows = Row::used().filter(|(used, _)| *used == kind).count();
            assert_eq!(rows, usize::from(kind != Kind::ServiceAccount), "{kind}");
        }
    }

    #[test]
    fn paths_are_those_of_the_api_server() {
        let path = |kind: &str, version: &str| {
            let row = ROWS.iter().find(|row| row.kind == kind).unwrap();
            row.path(version)
        };
        assert_eq!(path("Pod", "v1"), "/api/v1/pods");
        assert_eq!(
            path("EndpointSlice", "v1"),
            "/apis/discovery.k8s.io/v1/endpointslices"
        );
        assert_eq!(
            path("VirtualService", "v1alpha3"),
            "/apis/networking.istio.io/v1alpha3/virtualservices"
        );
    }
}
