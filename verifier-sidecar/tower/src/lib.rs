//! Verifies access tokens inside a Rust service, with what the sidecar verifies them with beside one: the same decision, the same
//! reasons, the same trust on disk.
//!
//! ```no_run
//! # async fn serve(orders: tonic::service::Routes) -> Result<(), Box<dyn std::error::Error>> {
//! use countersign_tower::{Embedded, Methods, Requirement};
//!
//! let methods = Methods::default()
//!     .open("/grpc.health.v1.Health/*")
//!     .protect("/orders.v1.Orders/Create", Requirement::scope("orders.write"));
//!
//! let countersign = Embedded::builder()
//!     .issuer("https://auth.example.com")
//!     .trust_domain("example.com")
//!     .audience("https://orders.example.com")
//!     .authority("https://authority.example.com:8443", "spiffe://example.com/countersign/authority")
//!     .certificate("tls/orders.crt", "tls/orders.key", "tls/roots.crt")
//!     .publishing_keys("publishing.jwks")
//!     .state_dir("/var/lib/orders/countersign")
//!     .methods(methods)
//!     .start()
//!     .await?;
//!
//! tonic::transport::Server::builder()
//!     .layer(countersign.layer())
//!     .add_routes(orders)
//!     .serve("[::]:50051".parse()?)
//!     .await?;
//! countersign.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! A handler finds who called in the request's extensions:
//!
//! ```
//! fn caller<T>(request: &tonic::Request<T>) -> Option<&str> {
//!     let token = request.extensions().get::<countersign_tower::VerifiedToken>()?;
//!     Some(token.claims().client_id.as_str())
//! }
//! ```
//!
//! A long call is judged again when its token expires and whenever the trust changes, and ends with the status that a new call
//! would get. Nobody's `x-countersign-` headers reach the service but ours.

mod body;
mod embedded;
mod layer;
mod methods;

pub use body::GuardedBody;
pub use countersign_core::binding::PeerCertificate;
pub use countersign_core::claims::Claims;
pub use countersign_core::spiffe::SpiffeId;
pub use countersign_core::verifying::VerifiedToken;
pub use embedded::{Embedded, EmbeddedBuilder, InvalidSettings, StartError};
pub use layer::{Verify, VerifyFuture, VerifyLayer};
pub use methods::{InvalidMethods, Methods, Requirement};
