//! Every request row through the mesh to every server, and what each server saw of it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context;
use outrigger_proxy::h1::Reject;

use super::{
    Tally,
    corpus::{self, After, Case, Expect, Message},
    manifests,
    record::{Record, hex},
    servers::{self, Server},
    wire::{self, Answer, Conversation, End, Manner},
};
use crate::Workload;

/// Rows on their way to one server at the same time: they share its pooled connections.
const AT_ONCE: usize = 3;

/// The servers of one run.
#[derive(Debug)]
pub struct Fleet(Vec<Server>);

/// What every server saw, by its name.
pub type Seen = HashMap<&'static str, Vec<Record>>;

impl Fleet {
    /// Starts them, with their files in `folder`.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        servers::start_all(folder).map(Self)
    }

    /// Names and ports.
    #[must_use]
    pub fn ports(&self) -> Vec<(&'static str, u16)> {
        self.0.iter().map(|one| (one.name, one.port)).collect()
    }

    /// Ends them all and returns what they saw.
    ///
    /// # Errors
    /// When one cannot be ended.
    pub fn end(self) -> anyhow::Result<Seen> {
        self.0
            .into_iter()
            .map(|server| Ok((server.name, server.end()?)))
            .collect()
    }
}

/// One row sent to one server.
#[derive(Debug)]
pub struct Sent {
    /// The server.
    pub server: &'static str,
    /// The row.
    pub case: Case,
    /// What came back.
    pub conversation: Conversation,
}

/// Sends every row, with the follow-up behind it, through the client's sidecar to every server.
///
/// # Errors
/// When a sidecar takes no connection or the corpus cannot be read.
pub fn send_all(fleet: &Fleet, client: &Workload) -> anyhow::Result<Vec<Sent>> {
    let patience = Duration::from_secs(10);
    let targets = fleet.ports().into_iter().map(|(name, _)| {
        let host = manifests::host(name);
        let address = client.outbound.get(&host);
        let address = *address.with_context(|| format!("no outbound listener for {host}"))?;
        Ok((name, address))
    });
    let targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
    spread(&targets, &corpus::cases("mesh")?, AT_ONCE, |case| Manner {
        half_close: matches!(case.expect, Expect::Unfinished),
        head: is_head(case),
        enough: usize::MAX,
        patience,
    })
}

/// Whether the row is a proper HEAD request.
pub(super) fn is_head(case: &Case) -> bool {
    matches!(&case.expect, Expect::Accepted(message, _) if message.method == "HEAD")
}

/// Sends all cases to all targets, `at_once` to each at the same time.
pub(super) fn spread(
    targets: &[(&'static str, SocketAddr)],
    cases: &[Case],
    at_once: usize,
    manner: impl Fn(&Case) -> Manner + Sync,
) -> anyhow::Result<Vec<Sent>> {
    let manner = &manner;
    let send = move |server, address, case: &Case| {
        let mut bytes = case.bytes.clone();
        if !matches!(case.expect, Expect::Unfinished) {
            bytes.extend(corpus::follow_up(&case.tag));
        }
        let conversation = wire::converse(address, &bytes, manner(case))
            .with_context(|| format!("{} to {server}", case.name))?;
        Ok(Sent {
            server,
            case: case.clone(),
            conversation,
        })
    };
    let send = &send;
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for &(server, address) in targets {
            for lane in 0..at_once {
                let mine = cases.iter().skip(lane).step_by(at_once);
                threads.push(scope.spawn(move || {
                    mine.map(|case| send(server, address, case))
                        .collect::<anyhow::Result<Vec<_>>>()
                }));
            }
        }
        let mut all = Vec::new();
        for one in threads {
            let sent = one.join().map_err(|_| anyhow::anyhow!("a sender broke"))?;
            all.extend(sent?);
        }
        Ok(all)
    })
}

/// Compares everything sent with everything seen.
pub fn check(sent: &[Sent], seen: &Seen, tally: &mut Tally) {
    for (&server, records) in seen {
        let mine: Vec<&Sent> = sent.iter().filter(|one| one.server == server).collect();
        let mut by_tag: HashMap<&str, Vec<&Record>> = HashMap::new();
        for record in records {
            by_tag
                .entry(record.tag.as_deref().unwrap_or_default())
                .or_default()
                .push(record);
        }
        for one in &mine {
            let name = format!("{server} {} ({})", one.case.name, one.case.class);
            tally.note(&name, row(one, &by_tag));
        }
        let known: HashSet<String> = mine
            .iter()
            .flat_map(|one| [one.case.tag.clone(), format!("{}-f", one.case.tag)])
            .collect();
        let stray: Vec<&Record> = records
            .iter()
            .filter(|record| record.tag.as_ref().is_none_or(|tag| !known.contains(tag)))
            .collect();
        let result = match stray.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} that nobody sent: {first:?}", stray.len())),
        };
        tally.note(&format!("{server} requests without a sender"), result);
    }
}

type ByTag<'a> = HashMap<&'a str, Vec<&'a Record>>;

/// One row at one server.
fn row(sent: &Sent, by_tag: &ByTag<'_>) -> Result<(), String> {
    let case = &sent.case;
    let got = &sent.conversation;
    let own = by_tag.get(case.tag.as_str()).map_or(&[][..], Vec::as_slice);
    let follow_tag = format!("{}-f", case.tag);
    let follow = by_tag
        .get(follow_tag.as_str())
        .map_or(&[][..], Vec::as_slice);
    // A client that ends inside its request has left: nobody reads an answer, or how it ends.
    let is_left = matches!(case.expect, Expect::Unfinished) && got.answers.is_empty();
    if (got.end != End::Closed && !is_left) || got.rest > 0 {
        return Err(format!("the connection did not end in order: {got:?}"));
    }
    let whole = own.iter().filter(|record| record.complete).count();
    match &case.expect {
        Expect::Unfinished | Expect::Refused(_) if whole > 0 || !follow.is_empty() => Err(format!(
            "must not arrive: {own:?}, follow-up {follow:?}, {:?}",
            got.answers
        )),
        Expect::Unfinished => match got.answers.as_slice() {
            [] => Ok(()),
            [one] if one.status >= 400 => Ok(()),
            other => Err(format!("unfinished, yet answered: {other:?}")),
        },
        Expect::Refused(slug) => refused(slug, &got.answers),
        Expect::Accepted(message, after) => {
            let by_itself =
                |one: &Answer| one.reason.is_none() && (one.status >= 400 || message.target == "*");
            let tolerated = refusal_of(sent.server, case, message).is_some()
                && own.is_empty()
                && got.answers.first().is_some_and(by_itself);
            if !tolerated {
                let message = as_told_by(sent.server, message);
                understood(&message, own).map_err(|why| format!("{why}: {:?}", got.answers))?;
                answered(got.answers.first(), &case.tag)?;
            }
            followed(after, &follow_tag, follow, got.answers.get(1..))
        }
    }
}

/// The mesh's own answer, with the reason, and nothing else.
fn refused(slug: &str, answers: &[Answer]) -> Result<(), String> {
    let status = Reject::ALL.iter().find(|one| one.slug() == slug);
    let status = status.map_or(400, |one| one.status());
    match answers {
        [one] => {
            let reason = one.reason.as_deref().unwrap_or_default();
            let named = matches!(status, 431 | 505) || reason.contains(slug);
            if one.status == status && !reason.is_empty() && named {
                Ok(())
            } else {
                Err(format!("refused as {} {reason:?}", one.status))
            }
        }
        other => Err(format!("not one refusal: {other:?}")),
    }
}

/// Exactly one request was seen, and it is the model's.
fn understood(message: &Message, own: &[&Record]) -> Result<(), String> {
    let [record] = own else {
        return Err(format!("seen {} times: {own:?}", own.len()));
    };
    let host = message.host.is_none() || message.host == record.host;
    let same = record.complete
        && record.method == message.method
        && record.target == message.target
        && record.body == hex(&message.body)
        && host;
    if same {
        Ok(())
    } else {
        Err(format!("understood as {record:?}, sent {message:?}"))
    }
}

fn answered(answer: Option<&Answer>, tag: &str) -> Result<(), String> {
    match answer {
        Some(one) if one.status == 200 && one.tag.as_deref() == Some(tag) => Ok(()),
        other => Err(format!("answered with {other:?}")),
    }
}

/// What came after the row's own answer.
fn followed(
    after: &After,
    tag: &str,
    seen: &[&Record],
    answers: Option<&[Answer]>,
) -> Result<(), String> {
    let answers = answers.unwrap_or_default();
    match after {
        After::FollowUp => {
            let expected = Message {
                method: "POST".to_owned(),
                target: "/follow".to_owned(),
                host: Some("follow".to_owned()),
                body: corpus::FOLLOW_BODY.to_vec(),
                fields: 0,
            };
            understood(&expected, seen).map_err(|why| format!("follow-up {why}"))?;
            answered(answers.first(), tag).map_err(|why| format!("follow-up {why}"))?;
            (answers.len() == 1)
                .then_some(())
                .ok_or_else(|| format!("too much: {answers:?}"))
        }
        After::Refused | After::Closed if !seen.is_empty() => Err(format!("also seen: {seen:?}")),
        After::Refused => match answers {
            [one] if one.status == 400 && one.reason.is_some() => Ok(()),
            other => Err(format!("the second message: {other:?}")),
        },
        After::Closed if answers.is_empty() => Ok(()),
        After::Closed => Err(format!("answered after the end: {answers:?}")),
    }
}

/// Why a server may refuse, or answer by itself, a proper request that Outrigger passes on. It
/// must then say so with a status, and nothing may be left behind on the connection.
fn refusal_of(server: &str, case: &Case, message: &Message) -> Option<&'static str> {
    let has = |text: &str| {
        let mut windows = case.bytes.windows(text.len());
        windows.any(|part| part == text.as_bytes())
    };
    let plain_method = message
        .method
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    let host = message.host.as_deref().unwrap_or_default();
    match server {
        "go" | "nginx" | "apache2" if message.target == "*" => Some("`*` is answered by itself"),
        "nginx" | "apache2" if message.target.starts_with("/..") => Some("above the root"),
        "nginx" | "node" if !plain_method => Some("an unknown method"),
        "nginx" | "haproxy" | "apache2" if message.fields >= 99 => {
            Some("with what it adds there are too many fields for the recorder")
        }
        "apache2" if host.contains(['_', '~']) => Some("no `_` or `~` in a host"),
        "apache2" if has("Expect: y ") => Some("an unknown expectation"),
        "go" if has("Trailer: Content-Length") => Some("a trailer that must not be announced"),
        _ => None,
    }
}

/// The message as this server is known to tell it: neither changes where a message ends.
fn as_told_by(server: &str, message: &Message) -> Message {
    let mut told = message.clone();
    match server {
        "gunicorn" => told.method.make_ascii_uppercase(),
        "apache2" if told.target.starts_with("//") => {
            told.target = told.target.replacen('/', "", 1)
        }
        _ => {}
    }
    told
}
