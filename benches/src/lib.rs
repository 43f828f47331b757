//! What the benchmark is made of. `bin/compare.rs` is the command that does it all; `bin/load.rs` puts load on one address, and
//! `bin/origin.rs` is the service that everything leads to.
//!
//! [`subject`]s (ours, the peers, and no tunnel at all) are started as [`process`]es from [`programs`]; a [`measure`] puts
//! [`load`] on one of them and reads from the [`machine`] what it costs; [`results`] gathers what was read over the rounds,
//! [`table`] shows it, and [`goals`] are what it should be.

pub mod goals;
pub mod load;
pub mod machine;
pub mod measure;
pub mod origin;
pub mod process;
pub mod programs;
pub mod results;
pub mod rounds;
pub mod spread;
pub mod subject;
pub mod table;
