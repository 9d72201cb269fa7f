//! Rules as nf_tables messages.
//!
//! A rule is a list of expressions that work on registers: load a fact into register 1, compare it;
//! the rule ends where a comparison fails. The same expressions, in the same order, as `nft` makes
//! of the same rule, so that it lists them as they were meant.

use super::message::{Attribute, Kind, Message, flags};
use crate::plan::{Chain, Hook, Match, Rule, Ruleset, TABLE, Verdict};

/// Register 1 and the verdict's register.
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;

/// Kinds of attributes, by the object they belong to.
mod kind {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
}

/// Facts that a `meta` expression loads.
#[derive(Debug, Clone, Copy)]
enum Meta {
    Priority,
    InInterface,
    OutInterface,
    User,
    Group,
    Family,
    Transport,
}

impl Meta {
    /// `enum nft_meta_keys`.
    fn key(self) -> u32 {
        match self {
            Self::Priority => 2,
            Self::InInterface => 6,
            Self::OutInterface => 7,
            Self::User => 10,
            Self::Group => 11,
            Self::Family => 15,
            Self::Transport => 16,
        }
    }
}

/// The transaction that replaces the table, whatever was there, by `ruleset`.
pub(crate) fn replace(ruleset: &Ruleset) -> Vec<Message> {
    let mut messages = remove();
    messages.push(new_table());
    for chain in &ruleset.chains {
        messages.push(new_chain(chain));
        let rules = chain.rules.iter();
        messages.extend(rules.map(|rule| new_rule(chain, rule)));
    }
    messages
}

/// The transaction that leaves no table, whether or not there was one: deleting what is not there
/// would fail, so it is made first.
pub(crate) fn remove() -> Vec<Message> {
    let delete = Message {
        kind: Kind::DeleteTable,
        flags: flags::REQUEST | flags::ACK,
        attributes: vec![Attribute::text(kind::TABLE_NAME, TABLE)],
        what: format!("delete table inet {TABLE}"),
    };
    vec![new_table(), delete]
}

/// A request for all chains or rules of the family; those of other tables come too.
pub(crate) fn list(kind: Kind) -> Message {
    Message {
        kind,
        flags: flags::REQUEST | flags::DUMP,
        attributes: Vec::new(),
        what: "list the rules".into(),
    }
}

/// The table's name as it stands in the attributes of its chains and rules.
pub(crate) fn table_of(attributes: &[u8]) -> Option<&[u8]> {
    super::message::attributes(attributes)
        .find(|(found, _)| *found == kind::RULE_TABLE)
        .and_then(|(_, name)| name.strip_suffix(&[0]))
}

fn new_table() -> Message {
    Message {
        kind: Kind::NewTable,
        flags: flags::REQUEST | flags::ACK | flags::CREATE,
        attributes: vec![Attribute::text(kind::TABLE_NAME, TABLE)],
        what: format!("create table inet {TABLE}"),
    }
}

fn new_chain(chain: &Chain) -> Message {
    /// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_ACCEPT`.
    const PREROUTING: u32 = 0;
    const OUTPUT: u32 = 3;
    const ACCEPT: u32 = 1;
    /// `NF_IP_PRI_NAT_DST`.
    const PRIORITY: i32 = -100;
    let hook = match chain.hook {
        Hook::Prerouting => PREROUTING,
        Hook::Output => OUTPUT,
    };
    let hook = vec![
        Attribute::number(kind::HOOK_NUMBER, hook),
        Attribute::bytes(kind::HOOK_PRIORITY, PRIORITY.to_be_bytes()),
    ];
    Message {
        kind: Kind::NewChain,
        flags: flags::REQUEST | flags::ACK | flags::CREATE,
        attributes: vec![
            Attribute::text(kind::CHAIN_TABLE, TABLE),
            Attribute::text(kind::CHAIN_NAME, chain.name),
            Attribute::nested(kind::CHAIN_HOOK, hook),
            Attribute::number(kind::CHAIN_POLICY, ACCEPT),
            Attribute::text(kind::CHAIN_TYPE, "nat"),
        ],
        what: format!("create chain {} of type nat", chain.name),
    }
}

fn new_rule(chain: &Chain, rule: &Rule) -> Message {
    let mut expressions = Vec::new();
    for condition in &rule.matches {
        matching(*condition, &mut expressions);
    }
    verdict(rule.verdict, &mut expressions);
    Message {
        kind: Kind::NewRule,
        flags: flags::REQUEST | flags::ACK | flags::CREATE | flags::APPEND,
        attributes: vec![
            Attribute::text(kind::RULE_TABLE, TABLE),
            Attribute::text(kind::RULE_CHAIN, chain.name),
            Attribute::nested(kind::RULE_EXPRESSIONS, expressions),
            Attribute::bytes(kind::RULE_USERDATA, comment(rule.comment)),
        ],
        what: format!("add rule `{rule}` to chain {}", chain.name),
    }
}

/// A comment as `nft` reads it from a rule's user data: type 0, length, text with NUL.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

fn matching(condition: Match, out: &mut Vec<Attribute>) {
    /// `IPPROTO_TCP`; `NFPROTO_IPV4`, `NFPROTO_IPV6`; where a destination is in the header.
    const TCP: u8 = 6;
    const IPV4: (u8, u32) = (2, 16);
    const IPV6: (u8, u32) = (10, 24);
    const PORT_OFFSET: u32 = 2;
    match condition {
        Match::Tcp => meta_is(Meta::Transport, &[TCP], out),
        Match::ToLoopback => meta_is(Meta::OutInterface, &interface("lo"), out),
        Match::FromLoopback => meta_is(Meta::InInterface, &interface("lo"), out),
        Match::User(id) => meta_is(Meta::User, &id.to_ne_bytes(), out),
        Match::Group(id) => meta_is(Meta::Group, &id.to_ne_bytes(), out),
        Match::Priority(priority) => meta_is(Meta::Priority, &priority.to_ne_bytes(), out),
        Match::Port(port) => {
            meta_is(Meta::Transport, &[TCP], out);
            out.push(payload(Header::Transport, PORT_OFFSET, 2));
            out.push(equal(&port.get().to_be_bytes()));
        }
        Match::Destination(range) => {
            let (family, offset) = if range.address().is_ipv4() {
                IPV4
            } else {
                IPV6
            };
            meta_is(Meta::Family, &[family], out);
            let (octets, mask) = (range.octets(), range.mask());
            let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
            out.push(payload(Header::Network, offset, length));
            if !range.is_host() {
                out.push(masked(&mask));
            }
            out.push(equal(&octets));
        }
    }
}

fn verdict(verdict: Verdict, out: &mut Vec<Attribute>) {
    const ACCEPT: u32 = 1;
    match verdict {
        Verdict::Accept => {
            let code = vec![Attribute::number(kind::VERDICT_CODE, ACCEPT)];
            let data = vec![Attribute::nested(kind::DATA_VERDICT, code)];
            out.push(immediate(REGISTER_VERDICT, data));
        }
        Verdict::Redirect(port) => {
            let data = vec![Attribute::bytes(kind::DATA_VALUE, port.get().to_be_bytes())];
            out.push(immediate(REGISTER, data));
            // Of one port: the lower bound of the range alone.
            out.push(expression("redir", vec![Attribute::number(1, REGISTER)]));
        }
    }
}

fn expression(name: &str, data: Vec<Attribute>) -> Attribute {
    let parts = vec![
        Attribute::text(kind::EXPRESSION_NAME, name),
        Attribute::nested(kind::EXPRESSION_DATA, data),
    ];
    Attribute::nested(kind::LIST_ELEMENT, parts)
}

fn meta_is(meta: Meta, value: &[u8], out: &mut Vec<Attribute>) {
    let data = vec![
        Attribute::number(1, REGISTER),
        Attribute::number(2, meta.key()),
    ];
    out.push(expression("meta", data));
    out.push(equal(value));
}

fn equal(value: &[u8]) -> Attribute {
    const EQUAL: u32 = 0;
    let data = vec![
        Attribute::number(1, REGISTER),
        Attribute::number(2, EQUAL),
        Attribute::nested(3, vec![Attribute::bytes(kind::DATA_VALUE, value)]),
    ];
    expression("cmp", data)
}

/// Headers that a `payload` expression reads.
#[derive(Debug, Clone, Copy)]
enum Header {
    Network,
    Transport,
}

fn payload(header: Header, offset: u32, length: u32) -> Attribute {
    let base = match header {
        Header::Network => 1,
        Header::Transport => 2,
    };
    let data = vec![
        Attribute::number(1, REGISTER),
        Attribute::number(2, base),
        Attribute::number(3, offset),
        Attribute::number(4, length),
    ];
    expression("payload", data)
}

/// Register 1 and `mask`.
fn masked(mask: &[u8]) -> Attribute {
    let value = |bytes: &[u8]| vec![Attribute::bytes(kind::DATA_VALUE, bytes)];
    let data = vec![
        Attribute::number(1, REGISTER),
        Attribute::number(2, REGISTER),
        Attribute::number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX)),
        Attribute::nested(4, value(mask)),
        Attribute::nested(5, value(&vec![0; mask.len()])),
    ];
    expression("bitwise", data)
}

fn immediate(register: u32, data: Vec<Attribute>) -> Attribute {
    let data = vec![Attribute::number(1, register), Attribute::nested(2, data)];
    expression("immediate", data)
}

/// An interface's name as the kernel compares it: 16 bytes (`IFNAMSIZ`).
fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.as_bytes()) {
        *to = *from;
    }
    bytes
}
