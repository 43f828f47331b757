//! The gRPC face. [`TunnelService`] puts a backend behind it, [`RemoteBackend`] is a backend across it; both translate
//! by the same two files: `convert.rs` for values and `status.rs` for refusals. Its calls go out on a `line`: HTTP/2 where
//! that gets through, and otherwise gRPC-Web over HTTP/1.1.

mod connect;
mod convert;
mod dial;
mod line;
mod remote;
mod service;
mod status;
mod token;
mod watches;
mod way;
mod web;
mod wire;

pub use connect::{Connect, ConnectError};
pub use remote::RemoteBackend;
pub use service::TunnelService;
pub use token::{Token, TokenError};

/// What protox and tonic make of `proto/tunnel/v1/tunnel.proto`.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, clippy::all)]
mod generated {
    tonic::include_proto!("tunnel.v1");
}

/// The messages of `tunnel.v1`, as generated.
pub mod v1 {
    pub use super::generated::*;
    // The generated module `tunnel_server` would read like our crate of that name.
    pub use super::generated::{tunnel_client as client, tunnel_server as service};
}

/// The .proto as a descriptor set, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tunnel_v1.fds"));

/// The service's full name, as health checks ask for it.
pub const SERVICE_NAME: &str = "tunnel.v1.Tunnel";

/// The largest message either side reads: every message of the service is small.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The largest answer a client of ours reads: a full page of tunnels, each with all its labels, and room to spare.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
