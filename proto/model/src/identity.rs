//! Workload identity: a structure parsed from exactly one SPIFFE ID (SECURITY-NOTES rule 7).

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    InvalidValue, Namespace, ServiceAccount,
    name::{subdomain, text},
};

text!(
    /// A SPIFFE trust domain: lower-case letters, digits, `-` and `.` (SPIFFE-ID §2.1).
    TrustDomain, "trust domain", subdomain
);

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>` (DESIGN §1). No other path shape
/// is an identity of this mesh.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Namespace.
    pub namespace: Namespace,
    /// Service account.
    pub service_account: ServiceAccount,
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = || {
            InvalidValue::new(
                "SPIFFE ID",
                text,
                "the form is spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>",
            )
        };
        // SPIFFE-ID §2: at most 2,048 bytes.
        let rest = text
            .strip_prefix("spiffe://")
            .filter(|_| text.len() <= 2048);
        let mut parts = rest.ok_or_else(refuse)?.split('/');
        let mut next = || parts.next().ok_or_else(refuse);
        let trust_domain = TrustDomain::parse(next()?)?;
        if next()? != "ns" {
            return Err(refuse());
        }
        let namespace = Namespace::parse(next()?)?;
        if next()? != "sa" {
            return Err(refuse());
        }
        let service_account = ServiceAccount::parse(next()?)?;
        if parts.next().is_some() {
            return Err(refuse());
        }
        Ok(Self {
            trust_domain,
            namespace,
            service_account,
        })
    }
}

impl SpiffeId {
    /// The text shared, for label sets and log lines computed once.
    #[must_use]
    pub fn to_shared(&self) -> Arc<str> {
        self.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_shape_parses() {
        let check =
            |text: &str, ok: bool| assert_eq!(text.parse::<SpiffeId>().is_ok(), ok, "{text}");
        check("spiffe://cluster.local/ns/shop/sa/orders", true);
        check("spiffe://cluster.local/ns/shop/sa/orders/", false);
        check("spiffe://cluster.local/ns/shop/sa/", false);
        check("spiffe://cluster.local/ns/shop/sa/orders?x=1", false);
        check("spiffe://cluster.local:8080/ns/shop/sa/orders", false);
        check("spiffe://u@cluster.local/ns/shop/sa/orders", false);
        check("spiffe:///ns/shop/sa/orders", false);
        check("SPIFFE://cluster.local/ns/shop/sa/orders", false);
        check("spiffe://cluster.local/ns/sh%6fp/sa/orders", false);
        check("spiffe://cluster.local/sa/orders/ns/shop", false);
        check("https://cluster.local/ns/shop/sa/orders", false);
        check("", false);
    }
}
