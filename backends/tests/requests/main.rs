//! Clients' requests on their way to agents and back, over real sessions: what is asked is what the agent is asked, what is answered
//! is what the client is answered, and what is broken off on one side is broken off on the other.
//!
//! The tools: [`site`] (a backend with a tunnel, and the uplink that asks its agents), [`client`] (a request whose body is said bit by
//! bit), [`agent`] (HTTP/2's server), [`frames`] (an agent frame by frame).

mod agent;
mod client;
#[path = "../mux_wire/frames.rs"]
#[expect(dead_code, reason = "not all of it is said here")]
mod frames;
#[path = "../mux_wire/knock.rs"]
#[expect(dead_code, reason = "agents just come in here")]
mod knock;
mod mux;
mod site;

mod aborts;
mod answers;
mod asking;
mod bounds;
mod elsewhere;
mod resets;
mod upgrades;
mod webservers;
