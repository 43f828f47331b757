//! The command `tunnel-server`: what can be typed, and one file for each of its subcommands but the server itself.

pub(crate) mod args;
pub(crate) mod init;
pub(crate) mod token;
