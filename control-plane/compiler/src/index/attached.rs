//! The index by parent: which routes are attached to a service, and what they may refer to.

use super::Index;
use crate::{
    Object,
    aliases::ServiceName,
    merge::attached::{self, Attached},
};

impl Index {
    /// Routes that name a service as a parent, in the order in which they precede each other.
    pub(crate) fn attached(&self, service: &ServiceName) -> Vec<Attached<'_>> {
        let mut routes: Vec<_> = self
            .keys(self.attached.get(service))
            .filter_map(|object| Some((object, object.attached()?)))
            .collect();
        routes.sort_by_cached_key(|(object, _)| attached::age(object));
        routes
    }

    /// Whether a route may send to a service: one of its own namespace, or one whose namespace
    /// grants it.
    pub(crate) fn permits(&self, route: &Object, service: &ServiceName) -> bool {
        let Some(namespace) = route.namespace() else {
            return false;
        };
        *namespace == service.namespace
            || self
                .keys(self.grants.get(&service.namespace))
                .filter_map(|object| object.grant())
                .any(|grant| grant.allows(route.key().kind, namespace, &service.service))
    }
}
