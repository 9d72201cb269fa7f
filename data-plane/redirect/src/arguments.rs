//! The arguments of `outrigger-proxy redirect`, read without a parser library: the binary that runs
//! in every pod stays small.

use std::str::FromStr;

use outrigger_model::Port;

use crate::{Capture, CaptureError, Cidr, CidrError};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Capture.
    Apply(Capture),
    /// Print the rules, change nothing.
    Show(Capture),
    /// Take the rules away.
    Undo,
    /// Print [`USAGE`].
    Help,
}

/// The arguments cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Not an argument of this command.
    #[error("`{0}` is not an argument of `redirect`; `redirect --help` lists them")]
    Unknown(String),
    /// An argument without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// Not a port.
    #[error("{flag}: `{text}` is no port; write numbers from 1 to 65535, separated by commas")]
    Port {
        /// The argument.
        flag: &'static str,
        /// What was written.
        text: String,
    },
    /// Not a user or group.
    #[error("{flag}: `{text}` is no numeric id")]
    Id {
        /// The argument.
        flag: &'static str,
        /// What was written.
        text: String,
    },
    /// Not a range.
    #[error("{flag}: {source}")]
    Range {
        /// The argument.
        flag: &'static str,
        /// What was written.
        source: CidrError,
    },
    /// Values that do not go together.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Help text.
pub const USAGE: &str = "\
usage: outrigger-proxy redirect [OPTIONS]

Leads the TCP traffic of this network namespace through the sidecar. Needs CAP_NET_ADMIN.
Replaces what an earlier call wrote; exits 0 when the rules are in force as read back.

  --undo                        take the rules away
  --dry-run                     print the rules in nft's syntax, change nothing
  --outbound-port PORT          the sidecar's port for outgoing connections (15001)
  --inbound-port PORT           the sidecar's port for incoming connections (15006)
  --uid ID                      the sidecar's user, whose connections pass (1337)
  --gid ID                      the sidecar's group, whose connections pass (1337)
  --skip-inbound-ports PORTS    leave connections to these ports of the pod alone
  --only-inbound-ports PORTS    capture connections to these ports of the pod only
  --skip-outbound-ports PORTS   leave connections to these ports alone
  --skip-outbound-ranges CIDRS  leave connections to these addresses alone
  --only-outbound-ranges CIDRS  capture connections to these addresses only

Lists are separated by commas; an empty list is as none; an option may be repeated.
";

/// Reads the arguments behind `redirect`.
///
/// # Errors
/// Names the argument that cannot be used.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Order, UsageError> {
    let mut capture = Capture::default();
    let (mut undo, mut show) = (false, false);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = |flag| {
            let value = inline.clone().or_else(|| arguments.next());
            value.ok_or(UsageError::NoValue(flag))
        };
        match flag.as_str() {
            "--undo" => undo = true,
            "--dry-run" => show = true,
            "--help" | "-h" => return Ok(Order::Help),
            _ => set(&mut capture, &flag, &mut value)?,
        }
    }
    if undo {
        return Ok(Order::Undo);
    }
    capture.check()?;
    Ok(if show {
        Order::Show(capture)
    } else {
        Order::Apply(capture)
    })
}

fn set(
    capture: &mut Capture,
    flag: &str,
    value: &mut impl FnMut(&'static str) -> Result<String, UsageError>,
) -> Result<(), UsageError> {
    match flag {
        "--outbound-port" => capture.outbound_port = port("--outbound-port", value)?,
        "--inbound-port" => capture.inbound_port = port("--inbound-port", value)?,
        "--uid" => capture.uid = id("--uid", value)?,
        "--gid" => capture.gid = id("--gid", value)?,
        "--skip-inbound-ports" => {
            ports(
                &mut capture.skip_inbound_ports,
                "--skip-inbound-ports",
                value,
            )?;
        }
        "--only-inbound-ports" => {
            ports(
                &mut capture.only_inbound_ports,
                "--only-inbound-ports",
                value,
            )?;
        }
        "--skip-outbound-ports" => {
            ports(
                &mut capture.skip_outbound_ports,
                "--skip-outbound-ports",
                value,
            )?;
        }
        "--skip-outbound-ranges" => {
            ranges(
                &mut capture.skip_outbound_ranges,
                "--skip-outbound-ranges",
                value,
            )?;
        }
        "--only-outbound-ranges" => {
            ranges(
                &mut capture.only_outbound_ranges,
                "--only-outbound-ranges",
                value,
            )?;
        }
        other => return Err(UsageError::Unknown(other.to_owned())),
    }
    Ok(())
}

type Value<'v> = &'v mut dyn FnMut(&'static str) -> Result<String, UsageError>;

fn port(flag: &'static str, value: Value<'_>) -> Result<Port, UsageError> {
    let text = value(flag)?;
    one_port(&text).ok_or(UsageError::Port { flag, text })
}

fn one_port(text: &str) -> Option<Port> {
    Port::new(text.trim().parse::<u16>().ok()?).ok()
}

fn id(flag: &'static str, value: Value<'_>) -> Result<u32, UsageError> {
    let text = value(flag)?;
    u32::from_str(text.trim()).map_err(|_| UsageError::Id { flag, text })
}

fn ports(list: &mut Vec<Port>, flag: &'static str, value: Value<'_>) -> Result<(), UsageError> {
    for text in entries(&value(flag)?) {
        let port = one_port(text).ok_or_else(|| UsageError::Port {
            flag,
            text: text.to_owned(),
        })?;
        if !list.contains(&port) {
            list.push(port);
        }
    }
    Ok(())
}

fn ranges(list: &mut Vec<Cidr>, flag: &'static str, value: Value<'_>) -> Result<(), UsageError> {
    for text in entries(&value(flag)?) {
        let range = text
            .parse()
            .map_err(|source| UsageError::Range { flag, source })?;
        if !list.contains(&range) {
            list.push(range);
        }
    }
    Ok(())
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Order, String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_read() {
        assert_eq!(read(""), Ok(Order::Apply(Capture::default())));
        assert_eq!(read("--undo"), Ok(Order::Undo));
        assert_eq!(read("-h"), Ok(Order::Help));
        let Ok(Order::Show(capture)) = read(
            "--dry-run --outbound-port 4001 --inbound-port=4002 --uid 7 --gid 8 \
             --skip-inbound-ports 22,9100,22 --skip-outbound-ports=5432 --skip-outbound-ports 6379 \
             --skip-outbound-ranges 10.0.0.0/8,fd00::/8 --only-outbound-ranges= --only-inbound-ports 80",
        ) else {
            panic!("a plan");
        };
        assert_eq!(capture.outbound_port.get(), 4001);
        assert_eq!(capture.inbound_port.get(), 4002);
        assert_eq!((capture.uid, capture.gid), (7, 8));
        let numbers = |ports: &[Port]| ports.iter().map(|port| port.get()).collect::<Vec<_>>();
        assert_eq!(numbers(&capture.skip_inbound_ports), [22, 9100]);
        assert_eq!(numbers(&capture.skip_outbound_ports), [5432, 6379]);
        assert_eq!(numbers(&capture.only_inbound_ports), [80]);
        assert_eq!(capture.skip_outbound_ranges.len(), 2);
        assert!(capture.only_outbound_ranges.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |line: &str, expected: &str| {
            let error = read(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("--skip-inbound-port 22", "`--skip-inbound-port` is not");
        check("apply", "`apply` is not");
        check("--uid", "--uid needs a value");
        check("--uid root", "`root` is no numeric id");
        check("--uid 0", "run the sidecar as another user");
        check("--inbound-port 0", "`0` is no port");
        check(
            "--skip-inbound-ports 22,ssh",
            "--skip-inbound-ports: `ssh` is no port",
        );
        check("--skip-outbound-ranges 10.0.0.0/99", "10.0.0.0/99");
        check("--outbound-port 15006", "both 15006");
        let many: Vec<String> = (1..=300).map(|port: u16| port.to_string()).collect();
        check(
            &format!("--skip-inbound-ports {}", many.join(",")),
            "300 entries",
        );
    }
}
