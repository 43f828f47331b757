//! The tunnel service as a program, and as a library: [`Server::start`] runs one inside your own.
//!
//! Where to read: [`config`] says what can be set, `assemble.rs` turns it into parts and is the only file that knows every
//! part's name, `server.rs` starts and stops them, `rpc.rs` is what answers at the one port, [`auth`] says who may, `audit.rs`
//! writes down who did, `log.rs` is where it is written, and `admin.rs` shows how it all stands (`metrics.rs`) to those who look after it.

mod admin;
mod assemble;
mod audit;
pub mod auth;
pub mod config;
mod ephemeral;
pub mod log;
mod metrics;
pub mod panics;
pub mod private;
mod rpc;
mod server;

pub use config::{Config, ConfigError};
pub use server::{Running, Server, StartError};
