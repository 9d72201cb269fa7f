//! Where the control plane is: a host and a port, not yet resolved.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// `host:port`, the host a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ControlPlaneAddress {
    host: Box<str>,
    port: u16,
}

/// Not a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address; write host:port, as in outrigger.outrigger-system.svc:15012")]
pub struct NotAnAddress(String);

impl ControlPlaneAddress {
    /// Name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ControlPlaneAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let refuse = || NotAnAddress(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let is_name = !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        match port {
            Some(port) if is_name => Ok(Self {
                host: host.into(),
                port,
            }),
            Some(_) | None => Err(refuse()),
        }
    }
}

impl From<SocketAddr> for ControlPlaneAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string().into(),
            port: address.port(),
        }
    }
}

impl TryFrom<String> for ControlPlaneAddress {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        text.parse()
    }
}

impl From<ControlPlaneAddress> for String {
    fn from(address: ControlPlaneAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ControlPlaneAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_show() {
        let check = |text: &str, valid: bool| {
            let read = text.parse::<ControlPlaneAddress>();
            assert_eq!(read.is_ok(), valid, "{text}");
            if let Ok(read) = read {
                assert_eq!(read.to_string(), text);
            }
        };
        check("outrigger.outrigger-system.svc:15012", true);
        check("127.0.0.1:15012", true);
        check("[fd00::1]:15012", true);
        check("fd00::1:15012", false);
        check("outrigger", false);
        check("outrigger:0", false);
        check("outrigger:99999", false);
        check(":15012", false);
        check("http://outrigger:15012", false);
    }
}
