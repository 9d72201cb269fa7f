//! The certificate authority of the mesh (DESIGN §6): who may call itself what.
//!
//! A **root** (made at first start and kept in a state folder, or brought by the user) signs an
//! **issuer** that lives in memory alone; the issuer signs **leaves**, the certificates of
//! workloads. Outside Kubernetes a workload proves who it is with a **token** signed by a key
//! that the control plane manages; its sidecar shows the token when it asks for a certificate.
//!
//! Library only: no socket, no runtime, no background task. Each call is a few hundred
//! microseconds of CPU. The clock is the system's, and every function that reads it has a variant
//! that takes the time as an argument.
//!
//! Invariants:
//! - Of a signing request only the public key counts (SECURITY-NOTES rule 8); what a certificate
//!   says comes from the caller, who has checked a proof of identity.
//! - A leaf has exactly one URI name, its SPIFFE ID, and lives 24 h at most.
//! - Private keys and tokens have no `Debug`, `Display` or `Serialize`, and are wiped when dropped.
//! - Key files are created with mode 0600 and never read when others may read them.
//!
//! Absent on purpose: revocation lists (leaves are short), name constraints on URIs (webpki has
//! none that hold), key types other than P-256 in leaves.

mod authority;
mod csr;
mod profile;
mod root;
mod signer;
mod state;
mod token;

pub use authority::{
    CertificateAuthority, IssueError, IssuedCertificate, LEAF_TTL_MAX, ROOT_WARNING,
    ServerCredentials, ServerNames, generate_root,
};
pub use csr::{CSR_BYTES_MAX, CsrError};
pub use root::{ROOTS_MAX, RootError};
pub use state::StateError;
pub use token::{
    AUDIENCE, TOKEN_BYTES_MAX, TOKEN_TTL_DEFAULT, TOKEN_TTL_MAX, TokenAuthority, TokenError,
    VerifiedWorkload, WorkloadToken,
};
