//! The inner pieces, each on its own, so that a change to one of them shows without the noise of processes and sockets of
//! others. What they come to together is `compare`'s business.
#![allow(missing_docs, reason = "criterion's macros make a function without any")]

mod names;
mod relay;
mod streams;
mod tickets;

use criterion::{criterion_group, criterion_main};

criterion_group!(inner, relay::bench, streams::bench, tickets::bench, names::bench);
criterion_main!(inner);
