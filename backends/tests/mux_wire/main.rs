//! What is special to the `mux` backend: its wire, PTTH. The agents here are made by hand: the upgrade byte by byte, and
//! after it either the `h2` crate's server, as a stock program has one, or single frames, for what no library says.
//!
//! The tools: [`mux`] (the backend and a tunnel of it), [`knock`] (the request for the upgrade), [`agent`] (HTTP/2's server),
//! [`frames`] (an agent frame by frame).

mod agent;
mod frames;
mod knock;
mod mux;
#[path = "../rigs/mux.rs"]
mod rig;

mod answers;
mod crowds;
mod dribble;
mod ends;
mod goodbyes;
mod malformed;
mod openings;
mod readers;
mod requests;
mod resets;
mod sessions;
mod silence;
mod tickets;
