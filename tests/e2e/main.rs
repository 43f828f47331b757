//! The service from end to end: a server, agents and clients over real sockets on loopback. One file a promise.

mod bad_input;
mod closed_at_once;
mod composition;
mod door;
mod draining;
mod imports;
mod long_paths;
mod restarts;
mod rpc;
mod sdk;
mod streams;
