//! Limits of one resource. What goes beyond is a [`DecodeError`](super::DecodeError), so the
//! compiler keeps resources within them.

/// Bytes of one encoded resource. A quarter of a discovery response (4 MiB, DEF-34), and what a
/// table of 4,096 rules of 250 bytes takes. Parsed, a hostile message takes at most about 200 times
/// its bytes (an empty rule: two bytes, some 400 in memory), for as long as the parsing lasts.
pub const RESOURCE_BYTES_MAX: usize = 1 << 20;

/// Host names of a destination: each form of a service's name, and those a ServiceEntry lists.
pub const HOSTS_MAX: usize = 64;
/// Virtual addresses of a destination.
pub const VIPS_MAX: usize = 64;
/// Subsets of a destination, or named in one endpoint shard.
pub const SUBSETS_MAX: usize = 256;
/// HTTP rules of a route table.
pub const HTTP_RULES_MAX: usize = 4096;
/// TCP rules of a route table: only the first that matches counts, and nothing to match on yet.
pub const TCP_RULES_MAX: usize = 256;
/// Alternatives of a rule.
pub const MATCHES_PER_RULE_MAX: usize = 1024;
/// Header conditions of one alternative.
pub const HEADERS_PER_MATCH_MAX: usize = 64;
/// Parameter conditions of one alternative.
pub const QUERY_PER_MATCH_MAX: usize = 64;
/// Fields that one filter sets, adds or removes: four times what the Gateway API allows.
pub const FIELD_CHANGES_MAX: usize = 64;
/// Backends of a rule: sums of so many weights stay far from overflow.
pub const BACKENDS_PER_RULE_MAX: usize = 256;
/// Characters of a regular expression, as in Istio.
pub const REGEX_CHARS_MAX: usize = 1024;
/// Statuses of one retry condition: all that HTTP can have (RFC 9110 §15).
pub const STATUSES_MAX: usize = 500;
/// Application ports of a workload.
pub const INBOUND_PORTS_MAX: usize = 1024;
/// Roots of a trust bundle: rotation needs two, a federation some more.
pub const ROOTS_MAX: usize = 32;
