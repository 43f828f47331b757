//! Be reached from behind NAT: open a tunnel, and serve what comes through it like any other listener.
//!
//! ```no_run
//! # async fn example(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
//! use tunnel_agent::{Agent, Tunnel};
//!
//! let tunnel = Agent::connect("http://127.0.0.1:8010").await?.open(Tunnel::tcp()).await?;
//! println!("{}", tunnel.address());
//! axum::serve(tunnel, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Where to read: [`Agent`] opens tunnels, [`Tunnel`] says which, [`TunnelListener`] is what comes of it: it plugs into axum
//! (`axum::serve`), tonic (`serve_with_incoming`) and anything that takes connections ([`TunnelListener::accept`]), or
//! forwards them to an address ([`TunnelListener::forward_to`], [`Forwarding`]). Web clients of [`Tunnel::http`] need no listener:
//! [`Agent::serve`] answers their requests with an app, and a [`Proxy`] is one that asks a local service. `keeper.rs` is what
//! keeps the tunnel alive behind either.

mod agent;
mod backoff;
mod demand;
mod dial_in;
mod forward;
mod held;
mod keeper;
mod listener;
mod news;
mod proxy;
mod requests;
mod serve;
mod stream;
mod tunnel;

pub use agent::{Agent, AgentBuilder, OpenError};
pub use forward::{ForwardCounts, ForwardMeter, Forwarding, Target, TargetError};
pub use held::AgentState;
pub use listener::TunnelListener;
pub use proxy::{HostHeader, Proxy};
pub use requests::{RequestNews, Requests};
pub use serve::{RequestBody, ServedTunnel};
pub use stream::{Peer, TunnelStream};
pub use tunnel::Tunnel;
pub use tunnel_api::{
    Carry, PublicAddress, RequestEnded, StreamEnd, TunnelError, TunnelId,
    rpc::ConnectError,
    tls::{ClientCertificate, Fingerprint, Trust, TrustError},
};
