//! Netlink messages of the nf_tables subsystem: header, family header, attributes.

/// `NFNL_SUBSYS_NFTABLES`, the high byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
const FAMILY_INET: u8 = 1;
/// Set in the type of an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// The flags in an attribute's type: nested, and in network byte order.
const TYPE_MASK: u16 = !(3 << 14);
/// Length of `nlmsghdr` and of `nfgenmsg`.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// Flags of a request.
pub(crate) mod flags {
    /// `NLM_F_REQUEST`.
    pub(crate) const REQUEST: u16 = 1;
    /// `NLM_F_ACK`.
    pub(crate) const ACK: u16 = 4;
    /// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile.
    pub(crate) const INTERRUPTED: u16 = 0x10;
    /// `NLM_F_DUMP`.
    pub(crate) const DUMP: u16 = 0x300;
    /// `NLM_F_CREATE`.
    pub(crate) const CREATE: u16 = 0x400;
    /// `NLM_F_APPEND`.
    pub(crate) const APPEND: u16 = 0x800;
}

/// What a message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    NewTable,
    DeleteTable,
    NewChain,
    GetChain,
    NewRule,
    GetRule,
}

impl Kind {
    /// `nlmsg_type`.
    pub(crate) fn number(self) -> u16 {
        let low = match self {
            Self::NewTable => 0,
            Self::DeleteTable => 2,
            Self::NewChain => 3,
            Self::GetChain => 4,
            Self::NewRule => 6,
            Self::GetRule => 7,
        };
        SUBSYSTEM << 8 | low
    }
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) kind: u16,
    pub(crate) value: Value,
}

/// What an attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Nested(Vec<Attribute>),
}

impl Attribute {
    pub(crate) fn bytes(kind: u16, value: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            value: Value::Bytes(value.into()),
        }
    }

    /// In network byte order.
    pub(crate) fn number(kind: u16, value: u32) -> Self {
        Self::bytes(kind, value.to_be_bytes())
    }

    /// With the closing NUL.
    pub(crate) fn text(kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        Self::bytes(kind, bytes)
    }

    pub(crate) fn nested(kind: u16, value: Vec<Attribute>) -> Self {
        Self {
            kind,
            value: Value::Nested(value),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 4]);
        let kind = match &self.value {
            Value::Bytes(bytes) => {
                out.extend(bytes);
                self.kind
            }
            Value::Nested(inner) => {
                for attribute in inner {
                    attribute.write(out);
                }
                self.kind | NESTED
            }
        };
        // An attribute's length has no padding in it; what follows starts at a multiple of 4.
        let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        out[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }

    /// Whether `present`, as the kernel gives an object back, holds this attribute: it may have more
    /// beside it and inside it, never less, and nothing else.
    pub(crate) fn is_in(&self, present: &[u8]) -> bool {
        attributes(present)
            .filter(|(kind, _)| *kind == self.kind)
            .any(|(_, value)| self.value_is(value))
    }

    fn value_is(&self, present: &[u8]) -> bool {
        match &self.value {
            Value::Bytes(bytes) => bytes == present,
            Value::Nested(inner) => match is_list(inner) {
                Some(kind) => {
                    let mut found = attributes(present).filter(|(found, _)| *found == kind);
                    let all = inner.iter().all(|attribute| {
                        let next = found.next();
                        next.is_some_and(|(_, value)| attribute.value_is(value))
                    });
                    all && found.next().is_none()
                }
                None => inner.iter().all(|attribute| attribute.is_in(present)),
            },
        }
    }
}

/// The kind of all attributes, if they are of one: then their number and order count.
fn is_list(inner: &[Attribute]) -> Option<u16> {
    let kind = inner.first()?.kind;
    let same = inner.iter().all(|attribute| attribute.kind == kind);
    same.then_some(kind)
}

/// A message of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) flags: u16,
    pub(crate) attributes: Vec<Attribute>,
    /// What it does, in words, for the error that may come back.
    pub(crate) what: String,
}

impl Message {
    /// Appends the message.
    pub(crate) fn write(&self, sequence: u32, out: &mut Vec<u8>) {
        frame(
            out,
            self.kind.number(),
            self.flags,
            sequence,
            (FAMILY_INET, 0),
            |out| {
                for attribute in &self.attributes {
                    attribute.write(out);
                }
            },
        );
    }
}

/// Writes messages as one batch: all or none comes into force. Their sequence numbers are 1, 2, …;
/// the batch's own two messages have 0.
pub(crate) fn batch(messages: &[Message]) -> Vec<u8> {
    /// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    let mut out = Vec::with_capacity(messages.len() * 256);
    let edge = |kind, out: &mut Vec<u8>| {
        frame(out, kind, flags::REQUEST, 0, (0, SUBSYSTEM), |_| {});
    };
    edge(BEGIN, &mut out);
    for (message, sequence) in messages.iter().zip(1..) {
        message.write(sequence, &mut out);
    }
    edge(END, &mut out);
    out
}

fn frame(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    // Port 0: the kernel.
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply<'b> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// After `nlmsghdr`.
    pub(crate) body: &'b [u8],
}

impl<'b> Reply<'b> {
    /// `NLMSG_ERROR`: an errno, 0 for an acknowledgement.
    pub(crate) const ERROR: u16 = 2;
    /// `NLMSG_DONE`: the end of a dump.
    pub(crate) const DONE: u16 = 3;

    /// The errno of an error, positive; 0 in an acknowledgement.
    pub(crate) fn errno(&self) -> Option<i32> {
        let code = self.body.first_chunk::<4>()?;
        Some(i32::from_ne_bytes(*code).saturating_neg())
    }

    /// The attributes after the family header.
    pub(crate) fn attributes(&self) -> &'b [u8] {
        self.body.get(FAMILY_HEADER..).unwrap_or_default()
    }
}

/// The messages of a datagram. Ends at the first that is cut short.
pub(crate) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        let message = datagram.get(..length).filter(|_| length >= HEADER)?;
        let half = |at: usize| Some(u16::from_ne_bytes(*message.get(at..)?.first_chunk()?));
        let reply = Reply {
            kind: half(4)?,
            flags: half(6)?,
            sequence: u32::from_ne_bytes(*message.get(8..)?.first_chunk()?),
            body: message.get(HEADER..)?,
        };
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(reply)
    })
}

/// The attributes in `bytes`, kinds without flags. Ends at the first that is cut short.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_padded_but_not_in_their_length() {
        let mut out = Vec::new();
        Attribute::nested(4, vec![Attribute::text(1, "lo"), Attribute::number(2, 7)])
            .write(&mut out);
        let half = |value: u16| value.to_ne_bytes();
        let expected = [
            &half(20)[..],
            &half(4 | 0x8000),
            &half(7),
            &half(1),
            b"lo\0\0",
            &half(8),
            &half(2),
            &[0, 0, 0, 7],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn what_was_sent_is_found_in_more_never_in_less_or_other() {
        let sent = Attribute::nested(4, vec![Attribute::text(1, "meta"), Attribute::number(2, 7)]);
        let check = |present: &[Attribute], found: bool| {
            let mut bytes = Vec::new();
            for attribute in present {
                attribute.write(&mut bytes);
            }
            assert_eq!(sent.is_in(&bytes), found, "{present:?}");
        };
        let more = vec![
            Attribute::number(9, 1),
            Attribute::text(1, "meta"),
            Attribute::number(2, 7),
        ];
        check(std::slice::from_ref(&sent), true);
        check(&[Attribute::number(3, 0), Attribute::nested(4, more)], true);
        check(
            &[Attribute::nested(4, vec![Attribute::text(1, "meta")])],
            false,
        );
        check(&[Attribute::number(4, 1)], false);
        check(&[], false);
        let other = vec![Attribute::text(1, "meta"), Attribute::number(2, 8)];
        check(&[Attribute::nested(4, other)], false);
    }

    #[test]
    fn a_list_is_as_long_and_in_order() {
        let entry = |number| {
            Attribute::nested(
                1,
                vec![Attribute::number(1, number), Attribute::number(2, 0)],
            )
        };
        let list =
            |numbers: &[u32]| Attribute::nested(4, numbers.iter().map(|n| entry(*n)).collect());
        let check = |present: &[u32], found: bool| {
            let mut bytes = Vec::new();
            list(present).write(&mut bytes);
            assert_eq!(list(&[1, 2]).is_in(&bytes), found, "{present:?}");
        };
        check(&[1, 2], true);
        check(&[2, 1], false);
        check(&[1], false);
        check(&[1, 2, 3], false);
    }

    #[test]
    fn a_batch_is_framed() {
        let message = Message {
            kind: Kind::NewTable,
            flags: flags::REQUEST,
            attributes: vec![Attribute::text(1, "outrigger")],
            what: String::new(),
        };
        let bytes = batch(&[message]);
        let read: Vec<_> = replies(&bytes).collect();
        let kinds: Vec<u16> = read.iter().map(|reply| reply.kind).collect();
        assert_eq!(kinds, [16, 0x0a00, 17]);
        assert_eq!(read[1].sequence, 1);
        assert_eq!(read[1].body[..4], [FAMILY_INET, 0, 0, 0]);
        assert_eq!(read[0].body, [0, 0, 0, 10]);
        let name = attributes(read[1].attributes()).next();
        assert_eq!(name, Some((1, &b"outrigger\0"[..])));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_fail(bytes: Vec<u8>) {
            for reply in replies(&bytes) {
                reply.errno();
                prop_assert!(attributes(reply.attributes()).count() <= bytes.len());
            }
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
