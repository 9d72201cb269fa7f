//! Ranges of addresses.

use std::{fmt, net::IpAddr, str::FromStr};

/// An address range in CIDR form; bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no address range; write an address and a prefix length, as in 10.0.0.0/8 or fd00::/8"
)]
pub struct CidrError {
    /// What was written.
    pub text: String,
}

impl Cidr {
    /// The range of `prefix` bits that holds `address`; `None` when the prefix is longer than the
    /// address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if prefix > bits {
            return None;
        }
        let mask = mask(prefix, bits);
        let address = match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                IpAddr::from([a & mask[0], b & mask[1], c & mask[2], d & mask[3]])
            }
            IpAddr::V6(address) => {
                let mut octets = address.octets();
                for (octet, mask) in octets.iter_mut().zip(mask) {
                    *octet &= mask;
                }
                IpAddr::from(octets)
            }
        };
        Some(Self { address, prefix })
    }

    /// Lowest address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Prefix length in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address in network order.
    pub(crate) fn octets(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// The mask in network order, as long as the address.
    pub(crate) fn mask(&self) -> Vec<u8> {
        let octets = self.octets().len();
        mask(self.prefix, u8::MAX)
            .into_iter()
            .take(octets)
            .collect()
    }

    /// Whether the range is one address.
    pub(crate) fn is_host(&self) -> bool {
        usize::from(self.prefix) == self.octets().len() * 8
    }
}

/// The first `prefix` of `bits` bits set.
fn mask(prefix: u8, bits: u8) -> [u8; 16] {
    let mut mask = [0_u8; 16];
    let mut left = prefix.min(bits);
    for octet in &mut mask {
        let here = left.min(8);
        *octet = u8::MAX.checked_shl(u32::from(8 - here)).unwrap_or(0);
        left -= here;
    }
    mask
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// An address without a prefix is a range of one.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let refuse = || CidrError { text: text.into() };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let prefix = match (prefix, address) {
            (Some(prefix), _) => prefix.parse().map_err(|_| refuse())?,
            (None, IpAddr::V4(_)) => 32,
            (None, IpAddr::V6(_)) => 128,
        };
        Self::new(address, prefix).ok_or_else(refuse)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_and_show() {
        let check = |text: &str, shown: Option<&str>| {
            let read = text.parse::<Cidr>().ok().map(|range| range.to_string());
            assert_eq!(read.as_deref(), shown, "{text}");
        };
        check("10.1.2.3/8", Some("10.0.0.0/8"));
        check("0.0.0.0/0", Some("0.0.0.0/0"));
        check("10.1.2.3", Some("10.1.2.3"));
        check("10.1.2.3/32", Some("10.1.2.3"));
        check("10.1.2.255/25", Some("10.1.2.128/25"));
        check("fd00:1::7/16", Some("fd00::/16"));
        check("fd00::1", Some("fd00::1"));
        check("::/0", Some("::/0"));
        check("10.0.0.0/33", None);
        check("fd00::/129", None);
        check("10.0.0.0/", None);
        check("10.0.0/8", None);
        check("orders", None);
        check("", None);
    }

    #[test]
    fn masks_are_as_long_as_their_address() {
        let range: Cidr = "10.0.0.0/9".parse().unwrap();
        assert_eq!(range.mask(), [255, 128, 0, 0]);
        let range: Cidr = "fd00::/8".parse().unwrap();
        assert_eq!(range.mask().len(), 16);
        assert_eq!(range.mask()[..2], [255, 0]);
    }
}
