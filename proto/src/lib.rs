//! The wire contracts of Countersign, and nothing else: messages, clients and servers generated from the `.proto` files
//! beside this crate.
//!
//! The generated code is checked in, so that building needs no `protoc` and no build script. `tests/regenerate.rs` fails
//! when it differs from what the `.proto` files give; `UPDATE_GENERATED=1 cargo test -p countersign-proto` writes it anew.

/// Issuing tokens.
pub mod token {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.token.v1.rs");
    }
}

/// What the authority signs and verifiers keep.
pub mod trust {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.trust.v1.rs");
    }
}

/// The stream between the authority and its verifiers.
pub mod sync {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.sync.v1.rs");
    }
}

/// The operators' services.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.admin.v1.rs");
    }
}

/// The sidecar's local API.
pub mod verify {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.verify.v1.rs");
    }
}

/// The sidecar's tokens for the app beside it.
pub mod agent {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.agent.v1.rs");
    }
}

/// Newer tokens for open streams.
pub mod stream {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.stream.v1.rs");
    }
}

/// A service to try things on.
pub mod demo {
    /// Version 1.
    pub mod v1 {
        include!("gen/countersign.demo.v1.rs");
    }
}

/// What is spoken of Envoy's API.
pub mod envoy {
    /// Asking and answering.
    pub mod service {
        /// External authorization.
        pub mod auth {
            /// Version 3.
            pub mod v3 {
                include!("gen/envoy.service.auth.v3.rs");
            }
        }
    }

    /// What Envoy's messages have in common.
    pub mod config {
        /// Headers and addresses.
        pub mod core {
            /// Version 3.
            pub mod v3 {
                include!("gen/envoy.config.core.v3.rs");
            }
        }
    }

    /// Values of Envoy's messages.
    pub mod r#type {
        /// Version 3.
        pub mod v3 {
            include!("gen/envoy.type.v3.rs");
        }
    }
}

/// What others speak, too.
pub mod google {
    /// gRPC's status.
    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}

/// Every `.proto` file as a serialized `google.protobuf.FileDescriptorSet`: what gRPC reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
