//! Writes, verifies and removes the rules in the network namespace of the calling thread.

use rustix::io::Errno;

use crate::{
    Capture, CaptureError,
    netlink::{
        encode,
        message::{Attribute, Kind, Message},
        socket::{Failure, Socket},
    },
    plan::{TABLE, ruleset},
};

/// The kernel's least version with NAT in tables of family `inet`.
const KERNEL_MIN: &str = "5.2";

/// What is in force, as read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Chains of the table.
    pub chains: usize,
    /// Rules of the table.
    pub rules: usize,
}

/// The rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was tried: no rules can be made of it.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// No `CAP_NET_ADMIN`.
    #[error(
        "not permitted to {0} the rules: this needs the capability NET_ADMIN in the pod's network namespace (securityContext.capabilities.add of the init container), or the CNI plugin"
    )]
    Permission(Verb),
    /// No nf_tables.
    #[error(
        "this kernel has no nf_tables: load the module nf_tables on the node (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET; Linux {KERNEL_MIN} or newer), then try again"
    )]
    NoTables(#[source] Errno),
    /// No chains of type nat.
    #[error(
        "this kernel has no NAT for nf_tables: load the module nft_chain_nat on the node (CONFIG_NFT_NAT, CONFIG_NF_NAT; Linux {KERNEL_MIN} or newer), then try again"
    )]
    NoNat(#[source] Errno),
    /// An expression is missing; most likely redir.
    #[error(
        "this kernel refuses to {what}: load the modules nft_redir and nf_conntrack on the node (CONFIG_NFT_REDIR; Linux {KERNEL_MIN} or newer), then try again"
    )]
    NoExpression {
        /// Which rule.
        what: String,
        /// The kernel's word.
        #[source]
        source: Errno,
    },
    /// Another refusal.
    #[error("the kernel refused to {what}")]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's word.
        #[source]
        source: Errno,
    },
    /// Netlink itself.
    #[error("talking to the kernel's nf_tables failed")]
    Netlink(#[source] Errno),
    /// Read back, the rules are others.
    #[error(
        "the rules were written, but read back they differ ({0}): does another program change table inet {TABLE}?"
    )]
    Differs(String),
}

/// What was not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Write or remove.
    Change,
    /// Read back.
    Read,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Change => "change",
            Self::Read => "read",
        })
    }
}

/// Captures: replaces the table by the rules of `capture` in one transaction, then reads it back.
/// Blocks for milliseconds.
///
/// # Errors
/// When the rules are not in force; then either none or those of before are, except for
/// [`Error::Differs`].
pub fn apply(capture: &Capture) -> Result<Applied, Error> {
    capture.check()?;
    let messages = encode::replace(&ruleset(capture));
    let socket = Socket::open().map_err(|failure| explain(failure, Verb::Change))?;
    let commit = socket.commit(&messages);
    commit.map_err(|failure| explain(failure, Verb::Change))?;
    compare(&socket, &messages)
}

/// Whether exactly the rules of `capture` are in force. Changes nothing.
///
/// # Errors
/// [`Error::Differs`] when not; others when they cannot be read.
pub fn verify(capture: &Capture) -> Result<Applied, Error> {
    capture.check()?;
    let socket = Socket::open().map_err(|failure| explain(failure, Verb::Read))?;
    compare(&socket, &encode::replace(&ruleset(capture)))
}

/// Takes the rules away; that there are none is no error. Connections that were captured go on
/// through the sidecar until they end.
///
/// # Errors
/// When the rules are still in force.
pub fn undo() -> Result<(), Error> {
    let socket = Socket::open().map_err(|failure| explain(failure, Verb::Change))?;
    let commit = socket.commit(&encode::remove());
    commit.map_err(|failure| explain(failure, Verb::Change))?;
    match present(&socket, Kind::GetChain)?.len() {
        0 => Ok(()),
        count => Err(Error::Differs(format!("{count} chains are still there"))),
    }
}

/// Holds what is present against what was sent: as many chains and rules, in the same order, each
/// with every attribute that was sent.
fn compare(socket: &Socket, sent: &[Message]) -> Result<Applied, Error> {
    let count = |get, new| {
        let sent = sent.iter().filter(|message| message.kind == new);
        let sent: Vec<_> = sent.collect();
        let present = present(socket, get)?;
        if sent.len() != present.len() {
            let (sent, present) = (sent.len(), present.len());
            let text = format!("{sent} chains or rules written, {present} there");
            return Err(Error::Differs(text));
        }
        let other = sent.iter().zip(&present).find(|(sent, present)| {
            let is_in = |attribute: &Attribute| attribute.is_in(present);
            !sent.attributes.iter().all(is_in)
        });
        match other {
            Some((sent, _)) => Err(Error::Differs(format!("not found: {}", sent.what))),
            None => Ok(sent.len()),
        }
    };
    Ok(Applied {
        chains: count(Kind::GetChain, Kind::NewChain)?,
        rules: count(Kind::GetRule, Kind::NewRule)?,
    })
}

/// The attributes of our table's chains or rules.
fn present(socket: &Socket, kind: Kind) -> Result<Vec<Vec<u8>>, Error> {
    let listed = socket
        .list(&encode::list(kind))
        .map_err(|failure| explain(failure, Verb::Read))?;
    let ours = |attributes: &Vec<u8>| encode::table_of(attributes) == Some(TABLE.as_bytes());
    Ok(listed.into_iter().filter(ours).collect())
}

/// What an errno of the kernel means for the person who reads it.
fn explain(failure: Failure, verb: Verb) -> Error {
    match failure {
        Failure::Socket(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
            Error::NoTables(Errno::PROTONOSUPPORT)
        }
        Failure::Socket(Errno::PERM | Errno::ACCESS)
        | Failure::Refused {
            errno: Errno::PERM | Errno::ACCESS,
            ..
        } => Error::Permission(verb),
        Failure::Socket(errno) | Failure::Exchange(errno) => Error::Netlink(errno),
        Failure::Refused { what, kind, errno } => {
            let what = what.unwrap_or_else(|| "take the transaction".into());
            match (kind, errno) {
                // No subsystem of this number; or no family inet.
                (None, Errno::INVAL | Errno::OPNOTSUPP)
                | (
                    Some(Kind::NewTable | Kind::DeleteTable | Kind::GetChain | Kind::GetRule),
                    Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::INVAL,
                ) => Error::NoTables(errno),
                (Some(Kind::NewChain), Errno::NOENT | Errno::OPNOTSUPP) => Error::NoNat(errno),
                (Some(Kind::NewRule), Errno::NOENT | Errno::OPNOTSUPP) => Error::NoExpression {
                    what,
                    source: errno,
                },
                _ => Error::Refused {
                    what,
                    source: errno,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_said_with_what_to_do() {
        let check = |kind: Option<Kind>, errno: Errno, expected: &str| {
            let what = kind.map(|_| "create chain outbound of type nat".to_owned());
            let failure = Failure::Refused { what, kind, errno };
            let text = explain(failure, Verb::Change).to_string();
            assert!(text.contains(expected), "{kind:?} {errno:?}: {text}");
        };
        check(None, Errno::PERM, "capability NET_ADMIN");
        check(None, Errno::OPNOTSUPP, "no nf_tables: load");
        check(
            Some(Kind::NewTable),
            Errno::AFNOSUPPORT,
            "no nf_tables: load",
        );
        check(Some(Kind::NewChain), Errno::NOENT, "nft_chain_nat");
        check(Some(Kind::NewRule), Errno::NOENT, "nft_redir");
        check(
            Some(Kind::NewRule),
            Errno::NOMEM,
            "refused to create chain outbound",
        );
        let text = explain(Failure::Socket(Errno::PROTONOSUPPORT), Verb::Change).to_string();
        assert!(text.contains("CONFIG_NF_TABLES"), "{text}");
        let text = explain(Failure::Exchange(Errno::AGAIN), Verb::Change).to_string();
        assert!(text.contains("talking to the kernel"), "{text}");
    }
}
