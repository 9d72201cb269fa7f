//! Many requests at once, and who answered them.

use std::{collections::BTreeMap, net::SocketAddr, thread};

use super::client::{Connection, Reply};

/// `count` GETs over a few connections at once; the answers.
pub(crate) fn gets(
    address: SocketAddr,
    target: &str,
    count: usize,
    connections: usize,
) -> Vec<Reply> {
    thread::scope(|scope| {
        let parts: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(address).unwrap();
                    let get = |_| connection.exchange("GET", target, &[]).unwrap();
                    (0..count / connections).map(get).collect::<Vec<_>>()
                })
            })
            .collect();
        let replies = parts.into_iter().flat_map(|part| part.join().unwrap());
        replies.collect()
    })
}

/// How many answers came from each version, all of them 200.
pub(crate) fn split(replies: &[Reply]) -> BTreeMap<String, u64> {
    let mut split = BTreeMap::new();
    for reply in replies {
        assert_eq!(reply.status, 200, "{}: {}", reply.reason(), reply.text());
        *split.entry(reply.version().to_owned()).or_default() += 1;
    }
    split
}
