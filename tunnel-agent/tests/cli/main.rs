//! The `tunnel` command, as a shell sees it. One file for each of its subcommands.
#![cfg(unix)]

mod close;
mod environment;
mod http;
mod list;
mod requests;
mod rig;
mod service;
mod tcp;
mod trust;
mod usage;
mod watch;
