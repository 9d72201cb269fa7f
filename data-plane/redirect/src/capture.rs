//! What is captured: the one typed value that rules are made of.

use outrigger_model::Port;

use crate::Cidr;

/// Ports of the sidecar that others call directly: admin, metrics, health. Never captured inbound.
pub const NEVER_CAPTURED_INBOUND: [u16; 3] = [15_000, 15_020, 15_021];

/// `SO_PRIORITY` of the connections that a sidecar opens to an address that may be its own pod's
/// (outbound, to a meshed endpoint): those arrive at its own inbound port, as any peer's would. Its
/// other connections are left alone, else inbound's to the application would come back to it. The
/// value falls in the same band of the kernel's default queueing as 0, so nothing else changes.
pub const OWN_POD_PRIORITY: u32 = 4;

/// Most entries of each list: one rule each, so that the transaction fits in one datagram.
pub const ENTRIES_MAX: usize = 256;

/// What is captured and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Where the sidecar takes what the application opens (15001).
    pub outbound_port: Port,
    /// Where the sidecar takes what comes to the application (15006).
    pub inbound_port: Port,
    /// The sidecar's user (1337): what it opens is not captured.
    pub uid: u32,
    /// The sidecar's group (1337): what it opens is not captured.
    pub gid: u32,
    /// Connections to these ports of the pod are left alone.
    pub skip_inbound_ports: Vec<Port>,
    /// If not empty: only connections to these ports of the pod are captured.
    pub only_inbound_ports: Vec<Port>,
    /// Connections to these ports elsewhere are left alone.
    pub skip_outbound_ports: Vec<Port>,
    /// Connections to these addresses are left alone.
    pub skip_outbound_ranges: Vec<Cidr>,
    /// If not empty: only connections to these addresses are captured.
    pub only_outbound_ranges: Vec<Cidr>,
}

/// A capture that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// Both directions on one port.
    #[error("outbound and inbound port are both {0}; the sidecar needs two")]
    SamePort(Port),
    /// A list is too long.
    #[error("{list} has {count} entries, at most {ENTRIES_MAX} are possible; write wider ranges")]
    TooMany {
        /// Which.
        list: &'static str,
        /// Its length.
        count: usize,
    },
    /// The sidecar would run as root, and so would every process of root be exempt.
    #[error(
        "user 0 cannot be exempt: every process of root would pass the mesh by; run the sidecar as another user"
    )]
    RootExempt,
}

impl Default for Capture {
    fn default() -> Self {
        let port = |number: u16| Port::new(number).expect("a constant above 0");
        Self {
            outbound_port: port(15_001),
            inbound_port: port(15_006),
            uid: 1337,
            gid: 1337,
            skip_inbound_ports: Vec::new(),
            only_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_ranges: Vec::new(),
            only_outbound_ranges: Vec::new(),
        }
    }
}

impl Capture {
    /// Whether rules can be made of it.
    ///
    /// # Errors
    /// Names the first thing that cannot work.
    pub fn check(&self) -> Result<(), CaptureError> {
        if self.outbound_port == self.inbound_port {
            return Err(CaptureError::SamePort(self.outbound_port));
        }
        if self.uid == 0 || self.gid == 0 {
            return Err(CaptureError::RootExempt);
        }
        let lists = [
            ("--skip-inbound-ports", self.skip_inbound_ports.len()),
            ("--only-inbound-ports", self.only_inbound_ports.len()),
            ("--skip-outbound-ports", self.skip_outbound_ports.len()),
            ("--skip-outbound-ranges", self.skip_outbound_ranges.len()),
            ("--only-outbound-ranges", self.only_outbound_ranges.len()),
        ];
        match lists.into_iter().find(|(_, count)| *count > ENTRIES_MAX) {
            Some((list, count)) => Err(CaptureError::TooMany { list, count }),
            None => Ok(()),
        }
    }
}
