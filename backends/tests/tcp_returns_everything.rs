//! The `tcp` backend returns everything. Alone in its process, because tasks and descriptors are counted.

#[path = "rigs/tcp.rs"]
mod rig;

use rig::Tcp;
use tunnel_backends::testing;

#[test]
fn everything_is_returned() {
    testing::keep(&Tcp, testing::churn::everything_is_returned);
}
