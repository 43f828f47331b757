//! The tunnel service as a Rust trait, the values that go in and out of it, and (feature `rpc`, on by default) its gRPC
//! face both ways.
//!
//! Where to read:
//! - [`TunnelBackend`] is the contract; everything that runs tunnels implements it, everything that wants one calls it.
//! - [`OpenTunnel`], [`OpenedTunnel`], [`TunnelUri`], [`PublicAddress`] are its values, [`TunnelError`] its refusals.
//! - [`Router`] is a backend that picks among named backends.
//! - [`rpc::TunnelService`] puts a backend behind gRPC; [`rpc::RemoteBackend`] is a backend on the far side of it.

mod address;
mod backend;
mod caller;
mod carry;
mod error;
mod event;
mod host;
mod info;
mod name;
mod open;
mod router;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "tls")]
pub mod tls;
mod uri;

pub use address::{AddressRequest, AddressRequestError, PublicAddress, PublicAddressError};
pub use backend::{TunnelBackend, TunnelEvents};
pub use caller::{Caller, ConnectionAddrs, CredentialId, Owner, canonical_ip, canonical_network};
pub use carry::{Carry, CarryError};
pub use error::TunnelError;
pub use event::{AgentLoss, CloseReason, RequestEnded, StreamEnd, TunnelEvent, WatchFilter, What};
pub use host::{Host, HostError};
pub use info::{Page, TunnelInfo, TunnelState};
pub use name::{NameError, TunnelId, TunnelName, TunnelRef};
pub use open::{Labels, OpenTunnel, OpenedTunnel};
pub use router::{NoDefault, Router};
pub use uri::{TunnelUri, TunnelUriError};
