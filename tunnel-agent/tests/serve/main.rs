//! `Agent::serve` and `Proxy`, at the end of a server's HTTP/2 connection that is made by hand: the `h2` crate's client shows what an
//! agent says on the wire, and asks what no client of a real server could.
#![allow(clippy::unwrap_used, reason = "all of this is tests, also what they share")]

mod app;
mod connections;
mod passing;
mod rig;
mod upgrades;
