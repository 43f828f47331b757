//! How agents dial in: one file a wire, both ends of it side by side.

pub mod tcp;

#[cfg(feature = "dial")]
mod dialler;
#[cfg(feature = "dial")]
pub use dialler::{DialError, Dialled, Dialler, dialler_for};

#[cfg(feature = "serve")]
mod admission;
#[cfg(feature = "serve")]
pub use admission::{Admission, Carrier, DialFrom};
