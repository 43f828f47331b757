use std::{fmt, io, process::ExitCode};

use tunnel_agent::{ConnectError, OpenError};
use tunnel_api::TunnelError;

use super::units::printable;

/// What ends the command other than well: what to say, and by which number scripts know it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It was tried and did not work.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into() }
    }

    /// The command was not called as it should be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    /// The server is not there.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self { code: UNREACHABLE, message: message.into() }
    }

    /// Something answered, but not with an answer of the service: a server with a fault, or no tunnel server at all.
    fn of_a_stranger(status: &tonic::Status) -> Self {
        match innermost(status) {
            Some(cause) => {
                let cause = printable(&cause.to_string());
                Self::unreachable(format!(
                    "what is there does not answer as a tunnel server does: {cause}\n{WHERE_SERVERS_COME_FROM}"
                ))
            }
            None => Self::new(format!("the tunnel server failed: {}; its log says more", printable(status.message()))),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { .. } => Self::unreachable(format!("{error}\n{WHERE_SERVERS_COME_FROM}")),
            error => Self::new(error.to_string()),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(refusal) => refusal.into(),
            error => Self::new(chain(error)),
        }
    }
}

impl From<TunnelError> for Failure {
    fn from(error: TunnelError) -> Self {
        if let TunnelError::Internal { source, .. } = &error
            && let Some(status) = source.downcast_ref::<tonic::Status>()
        {
            return Self::of_a_stranger(status);
        }
        let advice = match &error {
            TunnelError::AddressTaken { .. } => "give another --port, or none to have one chosen".to_owned(),
            TunnelError::NameConflict { name, .. } => format!("`tunnel close {}` closes it", printable(name)),
            _ => String::new(),
        };
        let code = if matches!(error, TunnelError::Unavailable { .. }) { UNREACHABLE } else { FAILED };
        // A refusal is a text of the server's, and goes to a terminal.
        let mut message = printable(&chain(error));
        if !advice.is_empty() {
            message.push_str(&format!("\n  {advice}"));
        }
        Self { code, message }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The error and its causes on one line.
fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// What a transport's failure comes down to; a server's own refusal has no cause here.
pub(crate) fn innermost(status: &tonic::Status) -> Option<&dyn std::error::Error> {
    std::iter::successors(std::error::Error::source(status), |error| error.source()).last()
}

const WHERE_SERVERS_COME_FROM: &str =
    "  start one here with `tunnel-server`, or say where yours is with --server HOST:PORT (or TNL_SERVER)";

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// sysexits.h: EX_UNAVAILABLE.
const UNREACHABLE: u8 = 69;
/// sysexits.h: EX_CONFIG.
pub(crate) const BAD_CONFIG: u8 = 78;
