//! How agents dial in: one file a wire, both ends of it side by side.

pub mod ptth;
pub mod tcp;

mod declined;
pub use declined::Declined;

#[cfg(feature = "dial")]
mod connect;
#[cfg(feature = "dial")]
mod dialler;
#[cfg(feature = "dial")]
pub use dialler::{Answer, ClientsPerDialIn, ConnectionOffer, DialError, Dialler, Incoming, Offer, dialler_for};
#[cfg(feature = "dial")]
pub use ptth::{RequestBody, RequestOffer, Responder};

#[cfg(feature = "serve")]
mod admission;
#[cfg(feature = "serve")]
pub use admission::{Admission, Carrier, DialFrom, WhereTo};
