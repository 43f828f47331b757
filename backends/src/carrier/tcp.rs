//! The plainest wire there is: the agent connects to the tunnel's own port, and the bytes on that connection are the
//! client's. One client a connection; any program that can connect is an agent (`socat TCP:host:port TCP:localhost:8080`).
//!
//! Nothing on the wire says who dials in. What keeps strangers out is that the port cannot be guessed, that it accepts the
//! caller's own address only, and that it closes as soon as it is not needed; whoever shares that address with the agent
//! (everybody behind the same NAT) could dial in too.
//!
//! If the tunnel was opened with `proxy_protocol`, a PROXY v2 header with the client's address comes first. An agent then
//! also learns the moment at which its dial-in was given a client.

#[cfg(feature = "dial")]
mod dial;
#[cfg(feature = "serve")]
mod paired;
#[cfg(feature = "serve")]
mod serve;

#[cfg(feature = "dial")]
pub use dial::TcpDialler;
#[cfg(feature = "serve")]
pub use serve::TcpCarrier;
