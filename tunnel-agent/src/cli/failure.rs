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

    /// The server does not take the credentials.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: REFUSED, message: message.into() }
    }

    /// What is configured in the environment is malformed.
    pub(crate) fn environment(message: impl Into<String>) -> Self {
        Self { code: BAD_CONFIG, message: message.into() }
    }

    /// Whatever is there, it does not answer as a tunnel server does: it is stopping, lost, or none.
    fn no_answer(why: &str) -> Self {
        let why = printable(why);
        Self::unreachable(format!("no proper answer from the tunnel server: {why}\n{WHERE_SERVERS_COME_FROM}"))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { .. } => Self::unreachable(format!("{error}\n{WHERE_SERVERS_COME_FROM}")),
            error => Self::new(printable(&chain(error))),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(refusal) => refusal.into(),
            OpenError::NameIsNoHost(name) => Self::usage(format!(
                "the name {name} can be no host name; say with --host what clients are to write, or give a name of letters, digits \
                 and '-'"
            )),
            OpenError::BadHost(_) => Self::usage(chain(error)),
            error => Self::new(chain(error)),
        }
    }
}

impl From<TunnelError> for Failure {
    fn from(error: TunnelError) -> Self {
        let advice = match &error {
            // Its own words: it is there, and says when to come again.
            TunnelError::Unavailable { why, retry_after: Some(_) } => return Self::unreachable(printable(why)),
            TunnelError::Unavailable { why, .. } => return Self::no_answer(why),
            TunnelError::Internal { source, .. } => match source.downcast_ref().and_then(innermost) {
                Some(cause) => return Self::no_answer(&cause.to_string()),
                None => "the tunnel server has a fault; its log says more".to_owned(),
            },
            TunnelError::Unauthenticated { .. } => {
                return Self::refused(format!("{}\n{WHERE_TOKENS_COME_FROM}", printable(&chain(error))));
            }
            TunnelError::NotGranted { why } if why.contains("the host ") => {
                return Self::refused(format!("{}\n{WHERE_NAMES_COME_FROM}", printable(why)));
            }
            TunnelError::NotGranted { .. } => return Self::refused(printable(&chain(error))),
            TunnelError::AddressTaken { address } if address.starts_with("the name ") => {
                "give another --name or --host, or none to have one chosen".to_owned()
            }
            TunnelError::AddressTaken { .. } => "give another --port, or none to have one chosen".to_owned(),
            TunnelError::NameConflict { name, .. } => format!("`tunnel close {}` closes it", printable(name)),
            _ => return Self::new(printable(&chain(error))),
        };
        // A refusal is a text of the server's, and goes to a terminal.
        Self::new(format!("{}\n  {advice}", printable(&chain(error))))
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

const WHERE_TOKENS_COME_FROM: &str =
    "  give a token that the server knows, with --token-file FILE (or TNL_TOKEN_FILE), or in TNL_TOKEN";

const WHERE_NAMES_COME_FROM: &str = "  without --name and --host the server chooses one, which needs no grant";

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// sysexits.h: EX_UNAVAILABLE.
const UNREACHABLE: u8 = 69;
/// sysexits.h: EX_NOPERM.
const REFUSED: u8 = 77;
/// sysexits.h: EX_CONFIG.
pub(crate) const BAD_CONFIG: u8 = 78;
