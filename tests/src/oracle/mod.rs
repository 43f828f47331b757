//! The stream oracle: plays many connections through a tunnel, knows of every byte where it belongs, ends streams in every
//! way that TCP has, and compares what each side saw with what the other one did.
//!
//! `plan.rs` says how connections may go, `end.rs` plays one end of one, `run.rs` plays them all and judges.

mod end;
mod pattern;
mod plan;
mod run;

pub use run::{Oracle, Orders, Verdict};
