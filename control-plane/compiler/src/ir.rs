//! The intermediate representation: what every front end translates to, and what merging and
//! compiling work from.
//!
//! Istio's VirtualService and DestinationRule come here through `istio`, the Gateway API's routes
//! through `gateway`. They differ in what they attach to and in what precedes what; the rules
//! themselves are the same here. Every value carries the path of the
//! field it came from; the object is that of the value's owner. Hosts are not resolved yet:
//! that needs the services.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use outrigger_model::{
    Balancer, Filters, HostRewrite, Hostname, HttpMatch, Lifetime, Namespace, OutlierDetection,
    PathRewrite, Port, RedirectStatus, RetryPolicy, Scheme, SubsetName, Timeout, Weight,
};

use crate::status::Reason;

/// A value and the path of the field it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sourced<T> {
    pub(crate) value: T,
    pub(crate) path: Arc<str>,
}

/// A host as a route or policy names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Host {
    /// A name without dots: a service in the object's own namespace.
    Short(Hostname),
    /// A full name.
    Full(Hostname),
    /// `*.shop.svc.cluster.local`: every name that ends with the text after `*`.
    Suffix(Arc<str>),
    /// `*`: every name.
    Any,
}

impl Host {
    /// The full form, short names completed as Kubernetes does.
    pub(crate) fn complete(&self, namespace: &Namespace, cluster_domain: &Hostname) -> Self {
        match self {
            Self::Short(name) => {
                let full = format!("{name}.{namespace}.svc.{cluster_domain}");
                // Longer than a host name may be: then no service has it, and it stays as it is.
                Hostname::parse(&full).map_or_else(|_| self.clone(), Self::Full)
            }
            Self::Full(_) | Self::Suffix(_) | Self::Any => self.clone(),
        }
    }
}

/// Routing for some hosts, from one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Routes {
    /// Whose traffic.
    pub(crate) hosts: Vec<Sourced<Host>>,
    /// Who applies it.
    pub(crate) scope: Scope,
    /// HTTP rules, in order.
    pub(crate) http: Vec<HttpRoute>,
    /// TCP rules, in order.
    pub(crate) tcp: Vec<TcpRoute>,
    /// Fields that cannot take effect whatever other objects say, each with the reason.
    pub(crate) dead: Vec<Sourced<&'static str>>,
}

/// Routing for the services that an object names as its parents: HTTPRoute, GRPCRoute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttachedRoutes {
    /// What it is attached to, in order.
    pub(crate) parents: Vec<Parent>,
    /// Rules, in order.
    pub(crate) rules: Vec<AttachedRule>,
    /// Fields that cannot take effect whatever other objects say, each with the reason.
    pub(crate) dead: Vec<Sourced<&'static str>>,
}

/// One parent of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) path: Arc<str>,
    /// As written, for the status.
    pub(crate) reference: crate::status::ParentReference,
    /// The service; `None` for a parent that is none, such as a gateway, or cannot be one.
    pub(crate) service: Option<crate::aliases::ServiceName>,
}

/// One rule of an attached route. Its matches are ranked one by one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttachedRule {
    pub(crate) route: HttpRoute,
    /// Of each alternative of the route, in its order.
    pub(crate) ranks: Vec<Rank>,
    /// What makes the rule, or a match of it, answer 500 or nothing at all.
    pub(crate) problems: Vec<RuleProblem>,
}

/// Something that cannot be done as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleProblem {
    pub(crate) reason: Reason,
    pub(crate) message: Arc<str>,
}

/// How exact a match is, the more exact the greater: compared from the first number on. For HTTP:
/// kind of path match, characters of the path, method, headers, query parameters. For gRPC:
/// characters of the service, of the method, headers.
pub(crate) type Rank = [usize; 5];

/// Who applies a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Sidecars.
    Mesh,
    /// Gateways only.
    Gateways,
}

/// One HTTP rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpRoute {
    /// The rule.
    pub(crate) path: Arc<str>,
    /// Any of these; empty for every request.
    pub(crate) alternatives: Vec<HttpAlternative>,
    /// Where to.
    pub(crate) targets: Targets,
    /// What changes on the way.
    pub(crate) filters: Filters,
    /// Whole request.
    pub(crate) timeout: Timeout,
    /// Retries.
    pub(crate) retry: RetryPolicy,
}

/// One match of an HTTP rule: all of it holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpAlternative {
    pub(crate) path: Arc<str>,
    /// Only on this port of the service.
    pub(crate) port: Option<Port>,
    pub(crate) condition: HttpMatch,
    pub(crate) validity: Validity,
}

/// Whether a match can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Yes.
    Valid,
    /// It never matches: one of its conditions is not supported, or it is for gateways.
    Never,
    /// One of its conditions is invalid: what fits the others is answered 500 with this reason.
    Invalid(Arc<str>),
}

/// Where a rule sends traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Targets {
    /// To these, by weight. Not empty, their weights' sum above zero.
    Forward(Vec<Target>),
    /// Nowhere: the client is sent elsewhere.
    Redirect(Redirection),
    /// The rule is invalid, for this reason.
    Invalid(Arc<str>),
}

/// A backend, not resolved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) path: Arc<str>,
    pub(crate) to: Reference,
    pub(crate) weight: Weight,
    /// What changes on the way there.
    pub(crate) filters: Filters,
}

/// How a backend is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// By the host of a service.
    Host {
        host: Host,
        port: Option<Port>,
        subset: Option<SubsetName>,
    },
    /// A Kubernetes Service, by its name.
    Service {
        service: crate::aliases::ServiceName,
        port: Port,
    },
    /// It names nothing that could take requests: its share is answered 500.
    Invalid { reason: Reason, message: Arc<str> },
}

/// A redirect whose port may follow from the port that was addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// `None`: that of the request, which in a mesh is `http`.
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: HostRewrite,
    /// `None`: the scheme's own if a scheme is named, else the one that was addressed.
    pub(crate) port: Option<Port>,
    pub(crate) path: PathRewrite,
    pub(crate) status: RedirectStatus,
}

/// One TCP rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TcpRoute {
    pub(crate) path: Arc<str>,
    /// Any of these; empty for every connection.
    pub(crate) alternatives: Vec<TcpAlternative>,
    pub(crate) targets: Targets,
}

/// One match of a TCP rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpAlternative {
    pub(crate) port: Option<Port>,
    pub(crate) validity: Validity,
}

/// Treatment of a host's traffic, from one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// Which services.
    pub(crate) host: Sourced<Host>,
    /// For all endpoints.
    pub(crate) settings: Option<Settings>,
    /// Subsets, in order.
    pub(crate) subsets: Vec<SubsetPolicy>,
}

/// A subset and what it changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SubsetPolicy {
    pub(crate) path: Arc<str>,
    pub(crate) name: SubsetName,
    /// Labels that an endpoint must carry; none for all endpoints.
    pub(crate) labels: Labels,
    pub(crate) settings: Option<Settings>,
}

/// Labels of an endpoint, or labels it must carry.
pub(crate) type Labels = std::collections::BTreeMap<Arc<str>, Arc<str>>;

/// Settings for all ports, and for single ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) all: Groups,
    /// These replace `all` for their port, the groups that they leave out included.
    pub(crate) ports: Vec<(Port, Groups)>,
}

/// Three groups of settings; a more specific group replaces a less specific one whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Groups {
    pub(crate) path: Arc<str>,
    pub(crate) balancer: Option<Sourced<Balancer>>,
    pub(crate) pool: Option<Sourced<Pool>>,
    pub(crate) outlier: Option<Sourced<OutlierDetection>>,
}

/// Connection bounds; `None` for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) connections_max: Option<NonZeroU32>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) connection_age: Option<Duration>,
    pub(crate) idle_tcp: Option<Lifetime>,
    pub(crate) idle_http: Option<Lifetime>,
    pub(crate) pending_max: Option<NonZeroU32>,
    pub(crate) requests_max: Option<NonZeroU32>,
    pub(crate) requests_per_connection: Option<NonZeroU32>,
    pub(crate) retries_max: Option<NonZeroU32>,
}
