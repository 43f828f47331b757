//! Clients at the door: those of tunnels that have a host name. How they are told apart and passed on by the name in their TLS,
//! and how connections of web clients are kept and ended.
#![allow(clippy::unwrap_used, reason = "all of this is tests, also what they share")]

mod endings;
mod keeping;
mod names;
mod pace;
mod passthrough;
mod site;
mod upgrades;
