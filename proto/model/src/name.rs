//! Names: namespaces, hosts, destinations, shards, workloads.
//!
//! All are cheap to clone (`Arc<str>`), ordered, and hashable.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::{InvalidValue, Port};

/// Declares a newtype over `Arc<str>` with the checks of `$check`.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// When the text breaks the rule given at the type.
            pub fn parse(text: &str) -> Result<Self, InvalidValue> {
                $check($what, text).map(|text| Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                Self::parse(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
pub(crate) use text;

text!(
    /// A Kubernetes namespace: an RFC 1123 label, at most 63 characters.
    Namespace, "namespace", label
);
text!(
    /// A Kubernetes ServiceAccount name: an RFC 1123 subdomain, at most 253 characters.
    ServiceAccount, "service account", subdomain
);
text!(
    /// A subset of a destination, as a DestinationRule names it: 1–253 visible ASCII characters
    /// other than `/` and `|`.
    SubsetName, "subset name", subset
);
text!(
    /// A host name in lower case without a trailing dot (RFC 1123; `_` allowed as DNS does).
    /// A leading `*.` label is refused: wildcards are matched where they are read.
    Hostname, "host name", hostname
);

/// An address where a host is expected (RFC 3986 §3.2.2), an IPv6 address without brackets.
impl From<IpAddr> for Hostname {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string().into())
    }
}

impl Hostname {
    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}

/// RFC 1123 label.
fn label(what: &'static str, text: &str) -> Result<String, InvalidValue> {
    if text.len() <= 63 && is_label(text, false) {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new(
            what,
            text,
            "write 1–63 lower-case letters, digits and '-', not '-' at either end",
        ))
    }
}

/// RFC 1123 subdomain.
pub(crate) fn subdomain(what: &'static str, text: &str) -> Result<String, InvalidValue> {
    if text.len() <= 253 && text.split('.').all(|part| is_label(part, false)) {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new(
            what,
            text,
            "write lower-case letters, digits, '-' and '.', at most 253 characters, each part starting and ending with a letter or digit",
        ))
    }
}

fn subset(what: &'static str, text: &str) -> Result<String, InvalidValue> {
    let visible = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b'|';
    if (1..=253).contains(&text.len()) && text.bytes().all(visible) {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new(
            what,
            text,
            "write 1–253 visible characters without '/' and '|'",
        ))
    }
}

fn hostname(what: &'static str, text: &str) -> Result<String, InvalidValue> {
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if lower.len() <= 253 && lower.split('.').all(|part| is_label(part, true)) {
        Ok(lower)
    } else {
        Err(InvalidValue::new(
            what,
            text,
            "write dot-separated parts of letters, digits and '-', at most 253 characters",
        ))
    }
}

fn is_label(text: &str, underscore: bool) -> bool {
    let inner = |b: u8| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (underscore && b == b'_')
    };
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What a client writes to name a service: a host (as written, lower case) and a port.
/// The host may be short (`orders`), qualified, an IP address or a VIP; the control plane
/// resolves it in the client's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// Host name, or the text of an IP address (IPv6 without brackets).
    pub host: Hostname,
    /// Port; the scheme's default when the authority names none is filled in by the caller.
    pub port: Port,
}

impl Authority {
    /// Parses `host`, `host:port`, `[v6]:port` (RFC 3986 §3.2.2, without user information);
    /// `default_port` stands in for a missing port.
    ///
    /// # Errors
    /// When host or port is not valid, or neither a port nor a default is there.
    pub fn parse(text: &str, default_port: Option<Port>) -> Result<Self, InvalidValue> {
        let rule = "write host:port, for example orders:8080";
        let refuse = || InvalidValue::new("authority", text, rule);
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let text = bracketed.map_or(text, |(_, port)| port);
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (
                host,
                Some(Port::new(port.parse::<u32>().map_err(|_| refuse())?)?),
            ),
            Some(_) => return Err(refuse()),
            None => (text, default_port),
        };
        let host = match bracketed {
            Some((address, _)) if host.is_empty() => {
                let address: std::net::Ipv6Addr = address.parse().map_err(|_| refuse())?;
                Hostname::from(IpAddr::V6(address))
            }
            Some(_) => return Err(refuse()),
            None => Hostname::parse(host)?,
        };
        Ok(Self {
            host,
            port: port.ok_or_else(refuse)?,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.as_str().contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Key of a Destination and of its RouteTable: `namespace/name:port` (DESIGN §4). For a
/// Kubernetes Service the name is the Service's, for a ServiceEntry it is the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationName {
    /// Namespace of the service.
    pub namespace: Namespace,
    /// Service name or ServiceEntry host.
    pub service: Hostname,
    /// The service's port, as clients address it.
    pub port: Port,
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

impl FromStr for DestinationName {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse =
            || InvalidValue::new("destination name", text, "the form is namespace/name:port");
        let (namespace, rest) = text.split_once('/').ok_or_else(refuse)?;
        let (service, port) = rest.rsplit_once(':').ok_or_else(refuse)?;
        Ok(Self {
            namespace: Namespace::parse(namespace)?,
            service: Hostname::parse(service)?,
            port: Port::new(port.parse::<u32>().map_err(|_| refuse())?)?,
        })
    }
}

/// Key of an EndpointShard: `namespace/name:port/k`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardName {
    /// The destination whose endpoints these are.
    pub destination: DestinationName,
    /// Shard number, from 0 to `Destination::shards - 1`.
    pub index: u16,
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.index)
    }
}

impl FromStr for ShardName {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = || InvalidValue::new("shard name", text, "the form is namespace/name:port/k");
        let (destination, index) = text.rsplit_once('/').ok_or_else(refuse)?;
        Ok(Self {
            destination: destination.parse()?,
            index: index.parse().map_err(|_| refuse())?,
        })
    }
}

/// A workload (or a class of equal workloads) as its sidecar names itself: `namespace/name`.
/// Key of its InboundPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName {
    /// Namespace of the workload.
    pub namespace: Namespace,
    /// Name of the WorkloadEntry or of the workload's owner.
    pub name: Hostname,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for WorkloadName {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = || InvalidValue::new("workload name", text, "the form is namespace/name");
        let (namespace, name) = text.split_once('/').ok_or_else(refuse)?;
        Ok(Self {
            namespace: Namespace::parse(namespace)?,
            name: Hostname::parse(name)?,
        })
    }
}

/// Which object and field a decision comes from, for `x-outrigger-reason`, logs and `explain`:
/// `VirtualService/shop/payments spec.http[0]`, or `default` where nothing is configured.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Arc<str>);

impl Origin {
    /// Free text of at most 512 bytes; control characters and non-ASCII become `?`, so that it may
    /// stand in a header value.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let clean = |c: char| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        };
        Self(text.chars().take(512).map(clean).collect::<String>().into())
    }

    /// What the mesh does where nothing is configured.
    #[must_use]
    pub fn default_behavior() -> Self {
        Self("default".into())
    }

    /// The text, printable ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
