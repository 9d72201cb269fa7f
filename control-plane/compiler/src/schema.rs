//! Every field of the kinds that are used, and whether it is used yet.
//!
//! One table serves four ends: unknown fields are found (and the nearest known name given), fields
//! of Istio that are not supported yet are named by path, values are checked for type and range,
//! and the ledger knows what was written. A test holds it against the real CRDs, so that a field
//! they gain cannot be ignored in silence.

mod check;
pub(crate) mod gateway;
pub(crate) mod istio;
pub(crate) mod kubernetes;
mod scalar;
#[cfg(test)]
mod tests;

pub(crate) use check::{Checked, Finding, check, is_below, join};
pub(crate) use scalar::regex_error;

use crate::Kind;

/// One field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it does something.
    pub(crate) support: Support,
    /// What its value looks like.
    pub(crate) shape: Shape,
    /// Whether it must be there.
    pub(crate) required: bool,
}

/// Whether a field does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Yes.
    Used,
    /// It has a meaning, which is not supported yet: reported by path.
    NotYet,
    /// It configures nothing (status, bookkeeping).
    Ignored,
    /// Ours: it is used, but other meshes do not know it.
    Extension,
}

/// What a value looks like.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A mapping with these fields.
    Object(&'static [Field]),
    /// A list of such values.
    List(&'static Self),
    /// A list that may be long: checked like any other, one line in the ledger.
    Bulk(&'static Self),
    /// A mapping of free keys to such values.
    Map(&'static Self),
    /// Free keys to text, one line in the ledger (labels).
    Labels,
    /// Text.
    Text,
    /// Text that is one of these.
    Enum(&'static [&'static str]),
    /// A Go duration of at least 1 ms.
    Duration,
    /// A Go duration of at least 1 ms, or zero, which turns the bound off.
    DurationOrZero,
    /// An RE2 expression (SECURITY-NOTES D7).
    Regex,
    /// `true` or `false`.
    Bool,
    /// A whole number between these.
    Integer(i64, i64),
    /// Any number.
    Number,
    /// A port number or a port name.
    PortOrName,
    /// Anything.
    Any,
}

pub(crate) const PORT: Shape = Shape::Integer(1, 65_535);
pub(crate) const COUNT: Shape = Shape::Integer(0, 2_147_483_647);
pub(crate) const UNSIGNED: Shape = Shape::Integer(0, 4_294_967_295);
pub(crate) const PERCENT: Shape = Shape::Integer(0, 100);
/// As the Gateway API's CRDs bound it; above it the model refuses Istio's as well.
pub(crate) const WEIGHT: Shape = Shape::Integer(0, 1_000_000);
pub(crate) const TEXTS: Shape = Shape::List(&Shape::Text);

pub(crate) const fn used(name: &'static str, shape: Shape) -> Field {
    field(name, Support::Used, shape, false)
}

pub(crate) const fn required(name: &'static str, shape: Shape) -> Field {
    field(name, Support::Used, shape, true)
}

pub(crate) const fn later(name: &'static str, shape: Shape) -> Field {
    field(name, Support::NotYet, shape, false)
}

pub(crate) const fn ignored(name: &'static str) -> Field {
    field(name, Support::Ignored, Shape::Any, false)
}

pub(crate) const fn extension(name: &'static str, shape: Shape) -> Field {
    field(name, Support::Extension, shape, false)
}

const fn field(name: &'static str, support: Support, shape: Shape, required: bool) -> Field {
    Field {
        name,
        support,
        shape,
        required,
    }
}

/// The fields of a kind, from the top of the object.
pub(crate) fn of(kind: Kind) -> &'static Shape {
    match kind {
        Kind::Namespace => &kubernetes::NAMESPACE,
        Kind::ServiceAccount => &kubernetes::SERVICE_ACCOUNT,
        Kind::Node => &kubernetes::NODE,
        Kind::Pod => &kubernetes::POD,
        Kind::Service => &kubernetes::SERVICE,
        Kind::EndpointSlice => &kubernetes::ENDPOINT_SLICE,
        Kind::WorkloadEntry => &istio::WORKLOAD_ENTRY,
        Kind::ServiceEntry => &istio::SERVICE_ENTRY,
        Kind::VirtualService => &istio::VIRTUAL_SERVICE,
        Kind::DestinationRule => &istio::DESTINATION_RULE,
        Kind::HttpRoute => &gateway::HTTP_ROUTE,
        Kind::GrpcRoute => &gateway::GRPC_ROUTE,
        Kind::ReferenceGrant => &gateway::REFERENCE_GRANT,
    }
}

/// The name most like `written`, if one is alike at all.
pub(crate) fn nearest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = written.to_ascii_lowercase();
    names
        .into_iter()
        .map(|name| {
            let distance = strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase());
            (distance, name)
        })
        .filter(|(distance, name)| *distance <= 1 + name.len().min(written.len()) / 4)
        .min()
        .map(|(_, name)| name)
}
