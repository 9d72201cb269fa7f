//! From a [`Capture`] to rules: pure, so that it is read and tested without a kernel.
//!
//! Two chains of type `nat`, which the kernel asks once for each new connection:
//!
//! - `outbound` (hook output): what processes in the pod open. The sidecar's own connections and
//!   whatever stays in the pod pass; the rest goes to the outbound port.
//! - `inbound` (hook prerouting): what comes from outside. All but a few ports go to the inbound port.
//!
//! The order of the rules is the policy; every rule carries a comment that `nft list table inet
//! outrigger` shows. [`Ruleset`]'s text form is nft's own syntax.

use std::fmt;

use outrigger_model::Port;

use crate::{Capture, Cidr, NEVER_CAPTURED_INBOUND, OWN_POD_PRIORITY};

/// Name of the table.
pub(crate) const TABLE: &str = "outrigger";

/// The table `inet outrigger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain of type `nat` at priority `dstnat` (−100), policy accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name, unique in the table.
    pub name: &'static str,
    /// Where the kernel asks it.
    pub hook: Hook,
    /// In order; the first that matches decides.
    pub rules: Vec<Rule>,
}

/// Netfilter hooks in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets from outside, before routing.
    Prerouting,
    /// Packets of this namespace's own processes.
    Output,
}

/// All matches hold: the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Conditions.
    pub matches: Vec<Match>,
    /// What happens.
    pub verdict: Verdict,
    /// Why, for people who list the rules; at most 127 bytes.
    pub comment: &'static str,
}

/// One condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The packet is TCP.
    Tcp,
    /// It leaves by the loopback interface: its destination is this pod.
    ToLoopback,
    /// It came by the loopback interface.
    FromLoopback,
    /// The socket belongs to this user.
    User(u32),
    /// The socket belongs to this group.
    Group(u32),
    /// The socket's `SO_PRIORITY`.
    Priority(u32),
    /// TCP destination port (implies TCP).
    Port(Port),
    /// Destination address (implies its family).
    Destination(Cidr),
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it was going.
    Accept,
    /// It goes to this port of this pod.
    Redirect(Port),
}

/// The rules of a capture.
#[must_use]
pub fn ruleset(capture: &Capture) -> Ruleset {
    Ruleset {
        chains: vec![outbound(capture), inbound(capture)],
    }
}

fn outbound(capture: &Capture) -> Chain {
    let accept = |matches: &[Match], comment| Rule::new(matches, Verdict::Accept, comment);
    let loopback = [
        ([127, 0, 0, 0].into(), 8),
        (std::net::Ipv6Addr::LOCALHOST.into(), 128),
    ]
    .into_iter()
    .filter_map(|(address, prefix)| Cidr::new(address, prefix));
    let mut rules: Vec<Rule> = loopback
        .map(|range| {
            let matches = [Match::ToLoopback, Match::Destination(range)];
            accept(&matches, "loopback addresses")
        })
        .collect();
    let own = [
        Match::ToLoopback,
        Match::User(capture.uid),
        Match::Priority(OWN_POD_PRIORITY),
        Match::Tcp,
    ];
    rules.extend([
        Rule::new(
            &own,
            Verdict::Redirect(capture.inbound_port),
            "own service: the sidecar meets its own inbound side",
        ),
        accept(&[Match::User(capture.uid)], "the sidecar"),
        accept(&[Match::Group(capture.gid)], "the sidecar's group"),
        accept(&[Match::ToLoopback], "stays in the pod"),
    ]);
    let skipped = capture.skip_outbound_ports.iter();
    rules.extend(skipped.map(|port| accept(&[Match::Port(*port)], "skipped port")));
    let skipped = capture.skip_outbound_ranges.iter();
    rules.extend(skipped.map(|range| accept(&[Match::Destination(*range)], "skipped range")));
    let redirect = Verdict::Redirect(capture.outbound_port);
    if capture.only_outbound_ranges.is_empty() {
        rules.push(Rule::new(&[Match::Tcp], redirect, "to the sidecar"));
    }
    rules.extend(capture.only_outbound_ranges.iter().map(|range| {
        let matches = [Match::Destination(*range), Match::Tcp];
        Rule::new(&matches, redirect, "included range, to the sidecar")
    }));
    Chain {
        name: "outbound",
        hook: Hook::Output,
        rules,
    }
}

fn inbound(capture: &Capture) -> Chain {
    let accept = |matches: &[Match], comment| Rule::new(matches, Verdict::Accept, comment);
    let mut rules = vec![accept(&[Match::FromLoopback], "stays in the pod")];
    let own = NEVER_CAPTURED_INBOUND.into_iter();
    rules.extend(
        own.filter_map(|port| Port::new(port).ok())
            .map(|port| accept(&[Match::Port(port)], "the sidecar's metrics, health, admin")),
    );
    let skipped = capture.skip_inbound_ports.iter();
    rules.extend(skipped.map(|port| accept(&[Match::Port(*port)], "skipped port")));
    let redirect = Verdict::Redirect(capture.inbound_port);
    if capture.only_inbound_ports.is_empty() {
        rules.push(Rule::new(&[Match::Tcp], redirect, "to the sidecar"));
    }
    rules.extend(capture.only_inbound_ports.iter().map(|port| {
        Rule::new(
            &[Match::Port(*port)],
            redirect,
            "included port, to the sidecar",
        )
    }));
    Chain {
        name: "inbound",
        hook: Hook::Prerouting,
        rules,
    }
}

impl Rule {
    fn new(matches: &[Match], verdict: Verdict, comment: &'static str) -> Self {
        Self {
            matches: matches.to_vec(),
            verdict,
            comment,
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = match self.hook {
            Hook::Prerouting => "prerouting priority dstnat",
            // nft has no name for this priority at this hook.
            Hook::Output => "output priority -100",
        };
        writeln!(f, "\tchain {} {{", self.name)?;
        writeln!(f, "\t\ttype nat hook {hook}; policy accept;")?;
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{} comment \"{}\"", self.verdict, self.comment)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::ToLoopback => f.write_str("oifname \"lo\""),
            Self::FromLoopback => f.write_str("iifname \"lo\""),
            Self::User(id) => write!(f, "meta skuid {id}"),
            Self::Group(id) => write!(f, "meta skgid {id}"),
            Self::Priority(priority) => {
                // nft shows a priority as the traffic class `major:minor`, in hexadecimal.
                write!(
                    f,
                    "meta priority {:x}:{:x}",
                    priority >> 16,
                    priority & 0xffff
                )
            }
            Self::Port(port) => write!(f, "tcp dport {port}"),
            Self::Destination(range) if range.address().is_ipv4() => write!(f, "ip daddr {range}"),
            Self::Destination(range) => write!(f, "ip6 daddr {range}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

#[cfg(test)]
mod tests;
