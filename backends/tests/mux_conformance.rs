//! The `mux` backend keeps every promise of the kit.

#[path = "rigs/mux.rs"]
mod rig;

use rig::Mux;

tunnel_backends::conformance!(Mux::default());
