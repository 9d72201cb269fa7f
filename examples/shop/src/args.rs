//! The command line: a role, a port, a version.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::{Parser, ValueEnum};

use crate::app::Config;
use crate::peers::Addresses;

/// Which application of the shop to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// What customers talk to: HTTP.
    Storefront,
    /// Takes orders and works them off with the others: HTTP.
    Orders,
    /// Knows what is for sale: HTTP.
    Product,
    /// Sets goods aside: gRPC.
    Inventory,
    /// Charges cards: gRPC.
    Payments,
    /// Sends goods: HTTP.
    Shipping,
    /// Tells customers: HTTP.
    Notifications,
}

impl Role {
    /// The role's name, as on the command line and in `x-shop-role`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storefront => "storefront",
            Self::Orders => "orders",
            Self::Product => "product",
            Self::Inventory => "inventory",
            Self::Payments => "payments",
            Self::Shipping => "shipping",
            Self::Notifications => "notifications",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The arguments of one application.
#[derive(Clone, Debug, Parser)]
#[command(name = "outrigger-shop", about = "One application of the example shop")]
pub struct Args {
    /// The application to be.
    pub role: Role,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, env = "PORT", default_value_t = 0)]
    pub port: u16,
    /// The address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub address: IpAddr,
    /// What to answer in `x-shop-version`.
    #[arg(long, env = "SHOP_VERSION", default_value = "v1", value_parser = version)]
    pub version: String,
}

impl Args {
    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    /// On arguments that do not parse; also for `--help`, whose text the error carries.
    pub fn read(args: impl Iterator<Item = String>) -> Result<Self, clap::Error> {
        let program = std::iter::once(OsString::from("outrigger-shop"));
        Self::try_parse_from(program.chain(args.map(OsString::from)))
    }

    /// What to start, with `addresses` of the others.
    #[must_use]
    pub fn config(&self, addresses: Addresses) -> Config {
        Config {
            role: self.role,
            version: self.version.clone(),
            listen: SocketAddr::new(self.address, self.port),
            addresses,
        }
    }
}

/// A version goes into a header and into JSON as it is: a short token.
fn version(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a version is 1 to 32 letters, digits, '.', '-' or '_'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, clap::Error> {
        Args::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_role_with_port_and_version() {
        let args = read("payments --port 9005 --version v2").unwrap();
        assert_eq!(
            (args.role, args.port, args.version.as_str()),
            (Role::Payments, 9005, "v2")
        );
        assert_eq!(args.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for line in [
            "",
            "shop",
            "orders --port 65536",
            "orders --version a,b",
            "orders --version",
        ] {
            assert!(read(line).unwrap_err().use_stderr(), "{line}");
        }
    }

    #[test]
    fn every_role_is_written_as_it_is_read() {
        for role in Role::value_variants() {
            assert_eq!(read(role.name()).unwrap().role, *role);
        }
    }
}
