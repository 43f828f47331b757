//! The `tcp` backend keeps every promise of the kit.

#[path = "rigs/tcp.rs"]
mod rig;

use rig::Tcp;

tunnel_backends::conformance!(Tcp);
