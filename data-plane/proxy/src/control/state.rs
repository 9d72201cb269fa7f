//! What the discovery task knows, whichever stream it came from: resources are taken in from a
//! response or back from local disk, whole or not at all.

use std::sync::Arc;

use outrigger_model::{Resource, ResourceKind};
use outrigger_proto::{codec, wire::discovery::DeltaDiscoveryResponse};
use tokio::time::Instant;

use super::{
    disk::{Kept, Saved},
    fold::{Fold, Received, Rejected, prepare},
    keeper::Keeper,
    subscriptions::{Rejection, Resources},
};

/// What outlives streams.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) fold: Fold,
    pub(super) subscriptions: Resources,
    /// `None` without a `state_dir`.
    pub(super) keeper: Option<Keeper>,
}

impl State {
    /// Applies what local disk had, as if it had just been received. Nothing changes on an error.
    pub(super) fn take_back(&mut self, saved: Saved) -> Result<(), Rejected> {
        let mut received = Vec::with_capacity(saved.resources.len());
        let mut held = Vec::with_capacity(saved.resources.len());
        for kept in &saved.resources {
            let resource = decode(kept)?;
            let name = resource.name().to_string();
            let aliases = saved.used.iter().filter(|(_, destination)| {
                matches!(
                    kept.kind,
                    ResourceKind::Destination | ResourceKind::RouteTable
                ) && destination.to_string() == name
            });
            let aliases: Vec<_> = aliases
                .map(|(authority, _)| authority.to_string())
                .collect();
            let names = aliases.iter().cloned().chain([name]);
            held.extend(names.map(|name| (kept.kind, name, kept.version.clone())));
            received.push(Received { resource, aliases });
        }
        let prepared = prepare(received)?;
        for (authority, _) in &saved.used {
            self.fold.demand(authority);
        }
        self.fold.apply(prepared);
        self.subscriptions.with(|all| {
            for (kind, name, version) in held {
                all.hold(kind, name, version);
            }
        });
        if let Some(keeper) = &mut self.keeper {
            saved
                .resources
                .into_iter()
                .for_each(|kept| keeper.hold(kept));
        }
        Ok(())
    }

    /// Ends when [`Self::save`] is due. Cancel safe: yes.
    pub(super) async fn due(&self) {
        match &self.keeper {
            Some(keeper) => keeper.due().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn save(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.save(&self.fold, Instant::now());
        }
    }

    /// Decodes, checks, applies. Nothing changes on an error.
    pub(super) fn take_in(&mut self, response: DeltaDiscoveryResponse) -> Result<(), Rejected> {
        let Some(kind) = ResourceKind::from_type_url(&response.type_url) else {
            return Err(Rejected {
                name: response.type_url,
                reason: "unknown resource type".into(),
            });
        };
        let mut came = Vec::with_capacity(response.resources.len());
        // Under every name it is subscribed by: a resume claims what it asks for.
        let mut held = Vec::with_capacity(response.resources.len());
        for resource in response.resources {
            let names = resource.aliases.iter().chain([&resource.name]);
            held.extend(names.map(|name| (name.clone(), resource.version.clone())));
            let kept = Kept {
                kind,
                name: resource.name,
                version: resource.version,
                value: resource
                    .resource
                    .map(|any| any.value)
                    .unwrap_or_default()
                    .into(),
            };
            came.push((kept, resource.aliases));
        }
        let prepared = came
            .iter()
            .map(|(kept, aliases)| {
                let aliases = aliases.clone();
                decode(kept).map(|resource| Received { resource, aliases })
            })
            .collect::<Result<_, _>>()
            .and_then(prepare);
        let prepared = prepared.inspect_err(|rejected| self.reject(kind, &held, rejected))?;
        for name in &response.removed_resources {
            self.fold.remove(kind, name);
        }
        self.fold.apply(prepared);
        self.subscriptions.with(|all| {
            for name in &response.removed_resources {
                all.release(kind, name);
            }
            for (name, version) in held {
                all.hold(kind, name, version);
            }
        });
        if let Some(keeper) = &mut self.keeper {
            came.into_iter().for_each(|(kept, _)| keeper.hold(kept));
        }
        Ok(())
    }

    /// Notes that none of these was taken, because one of them cannot be.
    fn reject(&self, kind: ResourceKind, names: &[(String, String)], rejected: &Rejected) {
        let reason: Arc<str> = rejected.to_string().into();
        self.subscriptions.with(|all| {
            for (name, version) in names {
                let rejection = Rejection {
                    version: version.clone(),
                    reason: Arc::clone(&reason),
                };
                all.reject(kind, name.clone(), rejection);
            }
        });
    }
}

fn decode(kept: &Kept) -> Result<Resource, Rejected> {
    let rejected = |reason: String| Rejected {
        name: format!("{} {}", kept.kind.as_str(), kept.name),
        reason,
    };
    let resource =
        codec::decode(kept.kind, &kept.value).map_err(|error| rejected(error.to_string()))?;
    if resource.name().to_string() != kept.name {
        return Err(rejected(format!("it is called {} inside", resource.name())));
    }
    Ok(resource)
}

#[cfg(test)]
mod tests;
