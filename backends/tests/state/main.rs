//! What outlives a server, what does not, and what happens when it cannot be written. (That a server which is killed loses
//! nothing is tried with the program itself, in the package `tunnel-server`.)
//!
//! The tools: [`site`] (both backends, which can be started again), [`registries`] (a registry that fails).

mod registries;
mod site;

mod kept;
mod parked;
mod refused;
mod restored;
