//! The command `tunnel`: one file for each of its subcommands, and what they share.
//!
//! Where to read: [`args`] is what can be typed, and `main.rs` passes it on. stdout is for programs and goes through
//! [`stdout`]; everything for people goes to stderr, through [`screen`], which keeps the status line and the log apart.

pub(crate) mod args;
pub(crate) mod environment;
pub(crate) mod failure;
pub(crate) mod log;
pub(crate) mod screen;
pub(crate) mod server;
pub(crate) mod stdout;

pub(crate) mod close;
pub(crate) mod completions;
pub(crate) mod http;
pub(crate) mod list;
pub(crate) mod tcp;
pub(crate) mod watch;

mod json;
mod opening;
mod requests;
mod status;
mod table;
mod units;
