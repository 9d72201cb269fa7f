//! Which shard an endpoint is in.
//!
//! A pure function of the set of addresses, so that every replica makes the same shards, and stable:
//! an endpoint that comes or goes changes its own shard, and one in about two dozen splits or
//! joins one more (linear hashing: shard `k` splits into `k` and `k + 2^i`, one shard at a time).

use std::net::{IpAddr, SocketAddr};

use outrigger_model::ENDPOINTS_PER_SHARD_MAX;

/// Endpoints a shard holds on average once there are several. Low enough that chance seldom fills
/// a shard which has not been split yet, and holds twice the average.
const ENDPOINTS_PER_SHARD: usize = 24;

/// Number of shards and the endpoints of each, given by index into `addresses`.
pub(crate) fn assign(addresses: &[SocketAddr]) -> Vec<Vec<usize>> {
    if addresses.is_empty() {
        return Vec::new();
    }
    if addresses.len() <= ENDPOINTS_PER_SHARD_MAX {
        return vec![(0..addresses.len()).collect()];
    }
    let hashes: Vec<u64> = addresses.iter().map(hash).collect();
    let mut count = addresses.len().div_ceil(ENDPOINTS_PER_SHARD);
    loop {
        let mut shards = vec![Vec::new(); count];
        for (index, hash) in hashes.iter().enumerate() {
            shards[slot(*hash, count)].push(index);
        }
        let fullest = shards.iter().map(Vec::len).max().unwrap_or_default();
        // Beyond 2^16 shards the index does not fit: the surplus stays where it is, and is cut.
        if fullest <= ENDPOINTS_PER_SHARD_MAX || count >= SHARDS_MAX {
            return shards;
        }
        count += 1 + count / 64;
    }
}

/// Shards of one destination: their index is a `u16`.
pub(crate) const SHARDS_MAX: usize = 65_535;

/// Linear hashing: the low bits of the hash that give a shard that exists.
fn slot(hash: u64, count: usize) -> usize {
    let mask = count.next_power_of_two() - 1;
    let low = usize::try_from(hash & 0xffff_ffff).unwrap_or_default();
    let slot = low & mask;
    if slot < count {
        slot
    } else {
        low & (mask >> 1)
    }
}

/// FNV-1a over the address with a finalizer: the same on every machine and in every version.
fn hash(address: &SocketAddr) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match address.ip() {
        IpAddr::V4(ip) => add(&ip.octets()),
        IpAddr::V6(ip) => add(&ip.octets()),
    }
    add(&address.port().to_be_bytes());
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn addresses(count: u32) -> Vec<SocketAddr> {
        (0..count)
            .map(|n| SocketAddr::new(IpAddr::V4((0x0a00_0000 + n).into()), 8080))
            .collect()
    }

    fn contents(addresses: &[SocketAddr]) -> Vec<BTreeSet<SocketAddr>> {
        assign(addresses)
            .into_iter()
            .map(|shard| shard.into_iter().map(|index| addresses[index]).collect())
            .collect()
    }

    #[test]
    fn every_endpoint_is_in_one_shard_and_none_overflows() {
        for count in [0, 1, 63, 64, 65, 100, 1_000, 1_536, 1_537, 20_000] {
            let all = addresses(count);
            let shards = contents(&all);
            assert!(
                shards
                    .iter()
                    .all(|shard| shard.len() <= ENDPOINTS_PER_SHARD_MAX)
            );
            let together: BTreeSet<_> = shards.iter().flatten().copied().collect();
            assert_eq!(together.len(), all.len(), "{count}");
            let sum: usize = shards.iter().map(BTreeSet::len).sum();
            assert_eq!(sum, all.len(), "{count}");
        }
    }

    #[test]
    fn one_endpoint_more_changes_few_shards() {
        let mut changed_sum = 0;
        for count in 1_000..1_200 {
            let before = contents(&addresses(count));
            let after = contents(&addresses(count + 1));
            let changed = (0..before.len().max(after.len()))
                .filter(|index| before.get(*index) != after.get(*index))
                .count();
            assert!(changed <= 6, "{count}: {changed} shards changed");
            changed_sum += changed;
        }
        assert!(
            changed_sum < 200 * 2,
            "{changed_sum} changes for 200 endpoints"
        );
    }

    #[test]
    fn the_order_of_addresses_does_not_matter() {
        let all = addresses(500);
        let reversed: Vec<_> = all.iter().rev().copied().collect();
        assert_eq!(contents(&all), contents(&reversed));
    }
}
