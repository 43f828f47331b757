//! What the machine says: what processes cost, on which cores they run, how its TCP is.

pub mod congestion;
pub mod cores;
mod tree;
pub mod user;

pub use tree::{Side, descendants};
