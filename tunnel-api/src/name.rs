use std::{fmt, str::FromStr};

use crate::TunnelUri;

/// Names a tunnel in logs, lists and events. Chosen by the backend, never reused, no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(String);

/// The owner's own name for a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelName(String);

/// A text that is no id or no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write 1 to 128 letters, digits, '.', '_', '-' or '/'")]
pub struct NameError;

/// Which tunnel is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelRef {
    /// The one with this URI.
    Uri(TunnelUri),
    /// The one with this id.
    Id(TunnelId),
    /// The caller's own one with this name.
    Name(TunnelName),
}

impl TunnelId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TunnelName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TunnelId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        word(text).map(Self)
    }
}

impl FromStr for TunnelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        word(text).map(Self)
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TunnelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn word(text: &str) -> Result<String, NameError> {
    let fine =
        (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if fine { Ok(text.to_owned()) } else { Err(NameError) }
}
