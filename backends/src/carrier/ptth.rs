//! PTTH, one connection for any number of clients: the agent makes an HTTP/1.1 request on the server's one port, the server
//! answers 101, and from there on it speaks HTTP/2 with the roles reversed: the server opens the streams, the agent answers
//! them. Every HTTP/2 server library is an agent's wire (`docs/ptth.md`, after draft-kazuho-ptth-ptth).
//!
//! ```text
//! GET /.well-known/ptth/<tunnel id>/ HTTP/1.1        HTTP/1.1 101 Switching Protocols
//! Authorization: Basic <id:ticket>                   Upgrade: ptth
//! Upgrade: ptth                               ──▶    ALPN: h2                              ──▶  HTTP/2, reversed
//! ALPN: h2
//! ```
//!
//! Each client is a CONNECT (RFC 9113, 8.5) to the tunnel's public address, with the client's own in `Forwarded`. 200 takes
//! the client, 503 leaves it to another agent, anything else refuses it. END_STREAM is the end of a direction and RST_STREAM
//! aborts both.
//!
//! Where the tunnel carries requests, a client's request is a request. Any answer is the answer; RST_STREAM(REFUSED_STREAM)
//! leaves it to another agent. An upgrade is an extended CONNECT (RFC 8441).
//!
//! Both ends share `stream` and `inbox` (the bytes of one client), `pulse` and `window` (is the peer there, and how much fills the path),
//! `parting` (how its connection is closed) and `limits` (HTTP/2's settings, and why). The server's: `upgrade` (the HTTP/1.1 side), `gate` (who may come in), `session`
//! (one agent's connection), `resets`. The agent's: `dial`, and `answer` (to a request).

mod forwarded;
mod inbox;
mod limits;
mod outgoing;
mod parting;
mod pulse;
mod stream;
mod window;
mod wire;

#[cfg(feature = "dial")]
mod answer;
#[cfg(feature = "serve")]
mod caller;
#[cfg(feature = "dial")]
mod dial;
#[cfg(feature = "serve")]
mod exchange;
#[cfg(feature = "serve")]
mod gate;
#[cfg(feature = "serve")]
mod resets;
#[cfg(feature = "serve")]
mod session;
#[cfg(feature = "serve")]
mod upgrade;

#[cfg(feature = "dial")]
pub use answer::{RequestBody, RequestOffer, Responder};
#[cfg(feature = "dial")]
pub use dial::PtthDialler;
#[cfg(feature = "serve")]
pub use gate::{Gate, PtthCarrier};
pub use pulse::Patience;

/// The protocol's name in `Upgrade`.
const PTTH: &str = "ptth";

/// What is spoken after the upgrade, in `ALPN`.
const H2: &str = "h2";

/// The paths of targets begin with this.
#[cfg(feature = "serve")]
const WELL_KNOWN: &str = "/.well-known/ptth/";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tunnel_api::TunnelBackend;

    use super::Gate;
    use crate::{
        mux::MuxConfig,
        testing::{BehindDoor, Heard, Rig, Setup, Stage, TestAgent, client::say_all, connect, echo, hear, keep},
        tunnels::Tunnels,
    };

    #[derive(Default)]
    struct Mux(Arc<Gate>);

    impl Rig for Mux {
        fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
            let gate = &self.0;
            BehindDoor::new(
                |http| gate.clone().in_front_of(http),
                |door| MuxConfig::new("mux", Tunnels::new(), setup.public_ports, gate.clone(), door).build(),
            )
        }
    }

    /// Ten clients each, and another session comes.
    #[test]
    fn a_session_is_replaced_before_its_stream_ids_are_used_up() {
        let mux = Mux::default();
        keep(&mux, async |rig| {
            let stage = Stage::new(rig);
            let tunnel = stage.open(1).await;
            let _agent = TestAgent::dial(&tunnel.uri, 1).serve(echo);
            for number in 0..35_u8 {
                let mut client = connect(&tunnel.address).await;
                say_all(&mut client, &[number]).await;
                assert_eq!(hear(&mut client).await, Heard::finished_after(&[number]));
            }
            assert!(mux.0.came_in() >= 4, "{} sessions for 35 clients", mux.0.came_in());
        });
    }
}
