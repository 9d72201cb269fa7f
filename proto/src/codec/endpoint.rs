//! EndpointShard: rows of the model, columns on the wire.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use outrigger_model::{
    ENDPOINTS_PER_SHARD_MAX, Endpoint, EndpointShard, EndpointState, Locality, Peer, Port,
    SpiffeId, SubsetName,
};

use super::{
    error::{FieldError, Problem},
    field::{Result, ascending, count, list, text, texts, weight},
    limit::SUBSETS_MAX,
    wire,
};

/// Bit of `flags`: [`EndpointState::Draining`].
const FLAG_DRAINING: u32 = 1;

pub(super) fn encode(shard: &EndpointShard) -> wire::EndpointShard {
    let mut endpoints: Vec<&Endpoint> = shard.endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let localities = dictionary(endpoints.iter().map(|endpoint| &endpoint.locality));
    let identities = dictionary(endpoints.iter().filter_map(|e| identity(e)));
    let subsets = dictionary(endpoints.iter().flat_map(|endpoint| &endpoint.subsets));

    let mut message = wire::EndpointShard {
        name: shard.name.to_string(),
        localities: localities.iter().map(|l| encode_locality(l)).collect(),
        identities: identities.iter().map(ToString::to_string).collect(),
        subsets: subsets.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        match endpoint.address {
            SocketAddr::V4(address) => v4.extend_from_slice(&address.ip().octets()),
            SocketAddr::V6(address) => v6.extend_from_slice(&address.ip().octets()),
        }
        message.ports.push(endpoint.address.port().into());
        message.weights.push(endpoint.weight.get());
        message
            .locality
            .push(position(&localities, &endpoint.locality));
        message
            .peer
            .push(identity(endpoint).map_or(0, |id| position(&identities, id) + 1));
        message.flags.push(match endpoint.state {
            EndpointState::Ready => 0,
            EndpointState::Draining => FLAG_DRAINING,
        });
        let own: BTreeSet<&SubsetName> = endpoint.subsets.iter().collect();
        message.subset_count.push(index(own.len()));
        message
            .subset
            .extend(own.into_iter().map(|name| position(&subsets, name)));
    }
    message.addresses_v4 = v4.into();
    message.addresses_v6 = v6.into();
    message
}

pub(super) fn decode(message: &wire::EndpointShard) -> Result<EndpointShard> {
    let ips = addresses(message)?;
    for (field, column) in [
        ("ports", &message.ports),
        ("weights", &message.weights),
        ("locality", &message.locality),
        ("peer", &message.peer),
        ("flags", &message.flags),
        ("subset_count", &message.subset_count),
    ] {
        length(field, column.len(), ips.len())?;
    }
    let tables = Dictionaries::decode(message)?;
    let mut subsets = message.subset.as_slice();
    let mut endpoints = Vec::with_capacity(ips.len());
    for (i, ip) in ips.into_iter().enumerate() {
        let row = Row { message, i };
        let port = Port::new(row.cell(&message.ports))
            .map_err(|error| FieldError::new(&format!("ports[{i}]"), error))?;
        endpoints.push(Endpoint {
            address: SocketAddr::new(ip, port.get()),
            weight: weight(&format!("weights[{i}]"), row.cell(&message.weights))?,
            locality: row.entry("locality", &message.locality, &tables.localities)?,
            peer: row.peer(&tables.identities)?,
            state: row.state()?,
            subsets: row.subsets(&mut subsets, &tables.subsets)?,
        });
    }
    length(
        "subset",
        message.subset.len(),
        message.subset.len() - subsets.len(),
    )?;
    if !endpoints.is_sorted_by_key(|endpoint: &Endpoint| endpoint.address) {
        return Err(FieldError::new("addresses_v4", Problem::Unsorted));
    }
    Ok(EndpointShard {
        name: text("name", &message.name)?,
        endpoints,
    })
}

fn identity(endpoint: &Endpoint) -> Option<&SpiffeId> {
    match &endpoint.peer {
        Peer::Meshed(id) => Some(id),
        Peer::Plain => None,
    }
}

fn dictionary<'a, T: Ord>(values: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let unique: BTreeSet<&T> = values.collect();
    unique.into_iter().collect()
}

/// Position in a dictionary that was built from the same values.
fn position<T: Ord>(dictionary: &[&T], value: &T) -> u32 {
    let (Ok(i) | Err(i)) = dictionary.binary_search(&value);
    index(i)
}

/// Far below `u32::MAX`: a shard has at most 64 endpoints.
fn index(i: usize) -> u32 {
    u32::try_from(i).unwrap_or(u32::MAX)
}

fn encode_locality(locality: &Locality) -> wire::Locality {
    wire::Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        subzone: locality.subzone.to_string(),
    }
}

fn length(field: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(FieldError::new(field, Problem::Length { found, expected }))
    }
}

fn addresses(message: &wire::EndpointShard) -> Result<Vec<std::net::IpAddr>> {
    let (v4, rest_v4) = message.addresses_v4.as_chunks::<4>();
    let (v6, rest_v6) = message.addresses_v6.as_chunks::<16>();
    length(
        "addresses_v4",
        message.addresses_v4.len(),
        message.addresses_v4.len() - rest_v4.len(),
    )?;
    length(
        "addresses_v6",
        message.addresses_v6.len(),
        message.addresses_v6.len() - rest_v6.len(),
    )?;
    count("ports", v4.len() + v6.len(), ENDPOINTS_PER_SHARD_MAX)?;
    let v4 = v4.iter().map(|octets| Ipv4Addr::from(*octets).into());
    let v6 = v6.iter().map(|octets| Ipv6Addr::from(*octets).into());
    Ok(v4.chain(v6).collect())
}

/// The three dictionaries; identities and names are shared by all endpoints that use them.
struct Dictionaries {
    localities: Vec<Locality>,
    identities: Vec<SpiffeId>,
    subsets: Vec<SubsetName>,
}

impl Dictionaries {
    fn decode(message: &wire::EndpointShard) -> Result<Self> {
        let max = ENDPOINTS_PER_SHARD_MAX;
        let localities = list("localities", &message.localities, max, |locality| {
            Ok(Locality {
                region: Arc::from(locality.region.as_str()),
                zone: Arc::from(locality.zone.as_str()),
                subzone: Arc::from(locality.subzone.as_str()),
            })
        })?;
        let tables = Self {
            localities,
            identities: texts("identities", &message.identities, max)?,
            subsets: texts("subsets", &message.subsets, SUBSETS_MAX)?,
        };
        ascending("localities", &tables.localities, |entry| entry)?;
        ascending("identities", &tables.identities, |entry| entry)?;
        ascending("subsets", &tables.subsets, |entry| entry)?;
        Ok(tables)
    }
}

/// Row `i` of the columns, whose lengths were checked.
struct Row<'a> {
    message: &'a wire::EndpointShard,
    i: usize,
}

impl Row<'_> {
    fn cell(&self, column: &[u32]) -> u32 {
        column.get(self.i).copied().unwrap_or_default()
    }

    fn error(&self, field: &str, problem: Problem) -> FieldError {
        FieldError::new(&format!("{field}[{}]", self.i), problem)
    }

    fn entry<T: Clone>(&self, field: &str, column: &[u32], dictionary: &[T]) -> Result<T> {
        self.lookup(field, self.cell(column), dictionary)
    }

    fn lookup<T: Clone>(&self, field: &str, index: u32, dictionary: &[T]) -> Result<T> {
        let entry = usize::try_from(index).ok().and_then(|i| dictionary.get(i));
        entry.cloned().ok_or_else(|| {
            let count = dictionary.len();
            self.error(field, Problem::Dangling { index, count })
        })
    }

    fn peer(&self, identities: &[SpiffeId]) -> Result<Peer> {
        match self.cell(&self.message.peer).checked_sub(1) {
            None => Ok(Peer::Plain),
            Some(index) => self.lookup("peer", index, identities).map(Peer::Meshed),
        }
    }

    fn state(&self) -> Result<EndpointState> {
        match self.cell(&self.message.flags) {
            0 => Ok(EndpointState::Ready),
            FLAG_DRAINING => Ok(EndpointState::Draining),
            other => Err(self.error(
                "flags",
                Problem::OutOfRange {
                    value: other.into(),
                    max: FLAG_DRAINING.into(),
                },
            )),
        }
    }

    /// Takes this row's part off the front of the flattened column.
    fn subsets(&self, rest: &mut &[u32], dictionary: &[SubsetName]) -> Result<Vec<SubsetName>> {
        let count = self.cell(&self.message.subset_count);
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| rest.split_at_checked(count));
        let Some((own, after)) = taken else {
            let (value, max) = (u64::from(count), index(rest.len()).into());
            return Err(self.error("subset_count", Problem::OutOfRange { value, max }));
        };
        *rest = after;
        if !own.is_sorted_by(|a, b| a < b) {
            return Err(self.error("subset", Problem::Unsorted));
        }
        own.iter()
            .map(|index| self.lookup("subset", *index, dictionary))
            .collect()
    }
}
