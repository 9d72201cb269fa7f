//! The same rows straight to the servers: where they differ from the model, and among themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    corpus::{self, Expect},
    record::hex,
    requests::{Fleet, Seen, Sent, is_head, spread},
    wire::Manner,
};

/// Rows on their way to one server at the same time.
const AT_ONCE: usize = 6;
/// A server that says nothing for this long waits for more.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sends every row to every server without the mesh.
///
/// # Errors
/// When a server takes no connection or the corpus cannot be read.
pub fn send_all(fleet: &Fleet) -> anyhow::Result<Vec<Sent>> {
    let ports = fleet.ports().into_iter();
    let targets: Vec<_> = ports
        .map(|(name, port)| (name, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        .collect();
    spread(&targets, &corpus::cases("direct")?, AT_ONCE, |case| {
        Manner {
            half_close: false,
            head: is_head(case),
            enough: 2,
            patience: PATIENCE,
        }
    })
}

/// For each verdict of the model, how many rows each server takes; then single differences on
/// what the model accepts.
#[must_use]
pub fn table(sent: &[Sent], seen: &Seen) -> String {
    let servers: BTreeSet<&str> = sent.iter().map(|one| one.server).collect();
    let mut cells: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    let mut notes = BTreeMap::new();
    for one in sent {
        let class = one.case.class.as_str();
        let cell = cells.entry((class, one.server)).or_default();
        cell.1 += 1;
        let first = one.conversation.answers.first().map(|answer| answer.status);
        let taken = first.is_some_and(|status| (200..300).contains(&status));
        cell.0 += usize::from(taken);
        if let Some(note) = difference(one, first, seen) {
            notes
                .entry(one.case.name.as_str())
                .or_insert_with(Vec::new)
                .push(note);
        }
    }
    let mut text = String::from("\nrows that a server takes when asked directly, by our verdict\n");
    let mut line = |first: &str, cells: Vec<String>| {
        text.push_str(&format!("{first:<26}"));
        cells
            .iter()
            .for_each(|cell| text.push_str(&format!("{cell:>10}")));
        text.push('\n');
    };
    line("", servers.iter().map(ToString::to_string).collect());
    let classes: BTreeSet<&str> = cells.keys().map(|(class, _)| *class).collect();
    for class in classes {
        let cell = |server: &&str| {
            let (taken, all) = cells.get(&(class, *server)).copied().unwrap_or_default();
            format!("{taken}/{all}")
        };
        line(class, servers.iter().map(cell).collect());
    }
    text.push_str("\nwhat we accept and a server, asked directly, does not, or reads otherwise\n");
    for (row, notes) in notes {
        text.push_str(&format!("{row:<16} {}\n", notes.join("; ")));
    }
    text
}

/// How a server departs from the model on a row that the model accepts.
fn difference(sent: &Sent, status: Option<u16>, seen: &Seen) -> Option<String> {
    let Expect::Accepted(message, _) = &sent.case.expect else {
        return None;
    };
    let server = sent.server;
    let records = seen.get(server)?.iter();
    let mut own = records.filter(|one| one.tag.as_deref() == Some(&sent.case.tag));
    match (own.next(), status) {
        (Some(record), Some(200..=299)) => {
            let same = record.method == message.method
                && record.target == message.target
                && record.body == hex(&message.body);
            (!same).then(|| format!("{server} reads {} {}", record.method, record.target))
        }
        (Some(_) | None, Some(status)) => Some(format!("{server} answers {status}")),
        (Some(_) | None, None) => Some(format!("{server} does not answer")),
    }
}
