//! What the end-to-end tests share. The tests are in `e2e/`, one file a promise, and in `load/`; `bin/oracle.rs` plays the [`oracle`]
//! against a server and an agent that run elsewhere; `bin/tested-server.rs` is a [`process`] of its own for tests to measure.

pub mod beside;
pub mod certificates;
pub mod client;
pub mod credentials;
pub mod detour;
pub mod frames;
pub mod http1_proxy;
pub mod limit;
pub mod metrics;
pub mod oracle;
pub mod origin;
pub mod path;
pub mod process;
pub mod server;
pub mod web;
