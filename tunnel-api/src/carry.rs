use std::{fmt, str::FromStr};

/// What travels through a tunnel to its agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carry {
    /// Each client's request, as an HTTP request.
    Requests,
    /// Each client's connection, as bytes.
    Connections,
}

/// Neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write requests or connections")]
pub struct CarryError;

impl fmt::Display for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
        })
    }
}

impl FromStr for Carry {
    type Err = CarryError;

    fn from_str(text: &str) -> Result<Self, CarryError> {
        match text {
            "requests" => Ok(Self::Requests),
            "connections" => Ok(Self::Connections),
            _ => Err(CarryError),
        }
    }
}
