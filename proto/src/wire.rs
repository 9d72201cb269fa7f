//! Generated code, one module a protobuf package, from the files under `proto/`.
//!
//! Every lint exception for generated code stands here. The server halves exist with the feature
//! `server` only.

#![expect(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    clippy::struct_excessive_bools,
    reason = "generated: the .proto files carry the documentation"
)]
#![cfg_attr(
    feature = "server",
    expect(
        clippy::allow_attributes,
        clippy::too_many_lines,
        reason = "generated server dispatch"
    )
)]

pub use envoy::service::discovery::v3 as discovery;
pub use google::rpc;
pub use outrigger::{identity::v1 as identity, resource::v1 as resource};

/// Generated paths: references between packages climb by `super`, so the nesting must be that of
/// the packages. Use the short names above.
mod envoy {
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

mod outrigger {
    pub mod identity {
        pub mod v1 {
            tonic::include_proto!("outrigger.identity.v1");
        }
    }
    pub mod resource {
        pub mod v1 {
            tonic::include_proto!("outrigger.resource.v1");
        }
    }
}
