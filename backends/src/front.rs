//! How clients arrive: one file a way.

pub mod named;
pub mod port;

use async_trait::async_trait;
use tunnel_api::{AddressRequest, Caller, Owner, PublicAddress, TunnelError};

use crate::{lease::Lease, uplink::Uplink};

/// Claims a public address and sends its clients through an uplink.
///
/// A front is *given* the uplink instead of yielding connections, because the requests of one HTTP connection may belong to
/// different tunnels.
#[async_trait]
pub trait Front: Send + Sync + 'static {
    /// The schemes of its addresses, by which a request chooses it.
    fn schemes(&self) -> &'static [&'static str];

    /// The same wish, spelled as this front understands it: two that ask for the same address are the same.
    fn canonical(&self, wanted: AddressRequest) -> AddressRequest {
        wanted
    }

    /// Claims an address that fits `wanted` and serves its clients until the lease is dropped. When it returns, clients can
    /// connect. Dropping the future claims nothing.
    ///
    /// When the uplink [retires](Uplink::retired) no more clients are wanted: those that wait are refused, and what listens
    /// for this tunnel alone closes, while the address stays claimed.
    async fn publish(
        &self,
        caller: &Caller,
        wanted: &AddressRequest,
        uplink: Uplink,
    ) -> Result<(PublicAddress, Lease), TunnelError>;

    /// The same for a tunnel that had this address before the server was started: that one and no other, whatever the host
    /// of new addresses is.
    async fn publish_again(&self, owner: &Owner, address: &PublicAddress, uplink: Uplink)
    -> Result<Lease, TunnelError>;
}
