//! Who is calling, and what they may.
//!
//! Where to read: `credentials` is what the operator's file says (`grants` what each entry allows, `token` and `certificate` how
//! a caller shows which one is theirs), `keyring` keeps it up to date while the server runs, `identify` makes a
//! [`Caller`](tunnel_api::Caller) of each request or refuses it, `guard` holds callers to their grants, and `enforce` ends
//! what was opened by a credential that is no more. [`edit`] writes the file.

mod certificate;
mod credentials;
pub mod edit;
mod enforce;
mod grants;
mod guard;
mod identify;
mod keyring;
mod token;

pub use credentials::{Credential, Credentials};
pub use token::{Token, TokenHash};

pub(crate) use credentials::check_owner;
pub(crate) use enforce::{Enforcer, allot};
pub(crate) use grants::parse_ports;
pub(crate) use guard::Guard;
pub(crate) use identify::identify;
pub(crate) use keyring::Keyring;
