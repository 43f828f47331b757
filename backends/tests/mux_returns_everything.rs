//! The `mux` backend returns everything. Alone in its process, because tasks and descriptors are counted.

#[path = "rigs/mux.rs"]
mod rig;

use rig::Mux;
use tunnel_backends::testing;

#[test]
fn everything_is_returned() {
    testing::keep(&Mux::default(), testing::churn::everything_is_returned);
}
