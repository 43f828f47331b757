//! The data plane of the tunnel service: everything that touches users' bytes.
//!
//! Where to read: [`tcp`] walks one tunnel end to end. [`composed`] makes a backend of a [carrier] (how agents dial
//! in) and [fronts](front) (how clients arrive), which meet in the [`uplink`] and nowhere else; [`relay`] copies the bytes;
//! [`door`] is the one port that all else shares. What agents need of it is the dialling half of each carrier (feature
//! `dial`).

pub mod carrier;

pub mod hop;
mod link;
pub mod process;
pub mod proxy;
pub mod relay;
mod replay;
pub mod sockets;
pub mod upgraded;

#[cfg(feature = "serve")]
pub mod acceptor;
#[cfg(feature = "serve")]
mod clients;
#[cfg(feature = "serve")]
mod closed;
#[cfg(feature = "serve")]
pub mod composed;
#[cfg(feature = "serve")]
pub mod door;
#[cfg(feature = "serve")]
mod events;
#[cfg(feature = "serve")]
pub mod exchange;
#[cfg(feature = "serve")]
pub mod files;
#[cfg(feature = "serve")]
pub mod front;
#[cfg(feature = "serve")]
mod grpc;
#[cfg(feature = "serve")]
pub mod hosts;
#[cfg(feature = "serve")]
mod lease;
#[cfg(feature = "serve")]
pub mod meters;
#[cfg(feature = "serve")]
pub mod mux;
#[cfg(feature = "serve")]
pub mod names;
#[cfg(feature = "serve")]
mod naming;
#[cfg(feature = "serve")]
mod parked;
#[cfg(feature = "serve")]
pub mod ports;
#[cfg(feature = "serve")]
mod presence;
#[cfg(feature = "serve")]
pub mod quarantine;
#[cfg(feature = "serve")]
pub mod quotas;
#[cfg(feature = "serve")]
mod records;
#[cfg(feature = "serve")]
pub mod registry;
#[cfg(feature = "serve")]
pub mod requests;
#[cfg(feature = "serve")]
pub mod restore;
pub mod seldom;
#[cfg(feature = "serve")]
pub mod session;
#[cfg(feature = "serve")]
pub mod sessions;
#[cfg(feature = "serve")]
pub mod tcp;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "serve")]
pub mod tickets;
#[cfg(feature = "serve")]
pub mod tls;
#[cfg(feature = "serve")]
mod tunnel;
#[cfg(feature = "serve")]
pub mod tunnels;
#[cfg(feature = "serve")]
pub mod uplink;
#[cfg(feature = "serve")]
mod watch;
#[cfg(feature = "serve")]
pub mod web;

#[cfg(feature = "serve")]
pub use lease::Lease;
