//! Which service a captured request is for (DESIGN §5, step 1): the one that its authority names,
//! else the one of the address that the connection was going to.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use crate::{reason::Refusal, snapshot::Service, worker::Worker};

/// Where a captured connection was going.
#[derive(Debug, Clone)]
pub struct Captured {
    original: SocketAddr,
    /// The same as services are looked up by.
    authority: Box<str>,
}

impl Captured {
    /// `original` without scope and flow, and IPv4 as IPv4: its text is the authority's.
    pub(crate) fn new(original: SocketAddr) -> Self {
        Self {
            original,
            authority: original.to_string().into(),
        }
    }

    /// The service of the original destination. Cancel safe: yes.
    pub(crate) async fn by_address(&self, worker: &Worker) -> Result<Arc<Service>, Refusal> {
        worker.service(&self.authority).await
    }

    /// The service that `host`, with or without a port, names; the port is else the original one.
    /// Cancel safe: yes.
    pub(crate) async fn by_name(
        &self,
        worker: &Worker,
        host: &str,
    ) -> Result<Arc<Service>, Refusal> {
        let mut text = host.to_ascii_lowercase();
        if split(host).1.is_none() {
            text.push(':');
            text.push_str(&self.original.port().to_string());
        }
        worker.service(&text).await
    }

    /// The service of a request. Cancel safe: yes.
    pub(super) async fn service(
        &self,
        worker: &Rc<Worker>,
        authority: &str,
    ) -> Result<Arc<Service>, Refusal> {
        let addressed = self.by_address(worker).await;
        if let Ok(service) = &addressed
            && self.is_named(service, authority)
        {
            return addressed;
        }
        match self.by_name(worker, authority).await {
            Ok(named) => Ok(named),
            Err(unknown) => addressed.map_err(|_| unknown),
        }
    }

    /// Whether `authority` is one of the names of the service addressed, in full or shortened from
    /// the right: then it needs no look-up of its own.
    fn is_named(&self, service: &Service, authority: &str) -> bool {
        let (host, port) = split(authority);
        let is_short_for = |full: &str| {
            full.get(..host.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(host))
                && matches!(full.as_bytes().get(host.len()), None | Some(b'.'))
        };
        let hosts = &service.destination.hosts;
        authority.is_empty()
            || authority == &*self.authority
            || (port.is_none_or(|port| port == self.original.port())
                && !host.is_empty()
                && hosts.iter().any(|full| is_short_for(full.as_str())))
    }

    /// The endpoint that the client itself addressed: the original destination, unless that is an
    /// address of the service as a whole.
    pub(crate) fn pinned(&self, service: &Service) -> Option<SocketAddr> {
        let vips = &service.destination.vips;
        (!vips.contains(&self.original.ip())).then_some(self.original)
    }
}

/// Host and port of an authority; brackets stay.
fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        Some(_) | None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_split() {
        let check = |text, expected| assert_eq!(split(text), expected, "{text}");
        check("orders", ("orders", None));
        check("orders:80", ("orders", Some(80)));
        check("[fd00::1]", ("[fd00::1]", None));
        check("[fd00::1]:80", ("[fd00::1]", Some(80)));
        check("orders:", ("orders:", None));
        check("orders:99999", ("orders:99999", None));
    }
}
