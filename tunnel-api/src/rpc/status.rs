//! Refusals on the wire: the message says it all to people, the details say it to programs.

use std::{borrow::Cow, collections::HashMap};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::TunnelError;

const DOMAIN: &str = "tunnel.v1";

impl From<TunnelError> for Status {
    fn from(error: TunnelError) -> Self {
        if let TunnelError::Internal { doing, source } = &error {
            tracing::error!(error = %Chain(source.as_ref()), "internal error while {doing}");
        }
        let (code, facts) = code_and_facts(&error);
        let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, facts);
        match &error {
            TunnelError::Invalid { field, why } => {
                details.add_bad_request_violation(field.as_ref(), why.as_ref());
            }
            TunnelError::LimitReached { retry_after: Some(after), .. }
            | TunnelError::Unavailable { retry_after: Some(after), .. } => {
                details.set_retry_info(Some(*after));
            }
            _ => {}
        }
        Self::with_error_details(code, error.to_string(), details)
    }
}

impl From<Status> for TunnelError {
    /// What a client makes of a refusal. A status that did not come from this service (a proxy's, a transport's) is read
    /// by its code.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.map_or("", |info| info.reason.as_str());
        let fact = |key: &str| info.and_then(|info| info.metadata.get(key)).cloned().unwrap_or_default();
        let why = status.message().to_owned();
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        if let Some(why) = client_certificate_refused(&status) {
            return Self::Unauthenticated { why };
        }
        match (reason, status.code()) {
            ("INVALID", _) => Self::invalid(fact("field"), fact("why")),
            ("ADDRESS_TAKEN", _) => Self::AddressTaken { address: fact("address") },
            ("NAME_CONFLICT", _) => Self::NameConflict { name: fact("name"), difference: fact("difference") },
            ("UNSUPPORTED", _) | (_, Code::Unimplemented) => Self::Unsupported { call: "this call" },
            (_, Code::NotFound) => Self::NotFound,
            (_, Code::InvalidArgument) => Self::invalid("request", why),
            (_, Code::Unauthenticated) => Self::Unauthenticated { why },
            ("NOT_GRANTED", _) => Self::NotGranted { why },
            (_, Code::PermissionDenied) => Self::NotAllowed { why },
            (_, Code::ResourceExhausted) => Self::LimitReached { limit: why, retry_after },
            (_, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => {
                Self::Unavailable { why: unavailable(&status), retry_after }
            }
            _ => Self::internal("asking the remote server", status),
        }
    }
}

type Facts = HashMap<String, String>;

fn code_and_facts(error: &TunnelError) -> (Code, Facts) {
    let facts = |pairs: &[(&str, &dyn ToString)]| -> Facts {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_string())).collect()
    };
    match error {
        TunnelError::Invalid { field, why } => (Code::InvalidArgument, facts(&[("field", field), ("why", why)])),
        TunnelError::NotFound => (Code::NotFound, Facts::new()),
        TunnelError::AddressTaken { address } => (Code::AlreadyExists, facts(&[("address", address)])),
        TunnelError::NotAllowed { .. } | TunnelError::NotGranted { .. } => (Code::PermissionDenied, Facts::new()),
        TunnelError::Unauthenticated { .. } => (Code::Unauthenticated, Facts::new()),
        TunnelError::NameConflict { name, difference } => {
            (Code::FailedPrecondition, facts(&[("name", name), ("difference", difference)]))
        }
        TunnelError::LimitReached { .. } => (Code::ResourceExhausted, Facts::new()),
        TunnelError::Unavailable { .. } => (Code::Unavailable, Facts::new()),
        TunnelError::Unsupported { .. } => (Code::Unimplemented, Facts::new()),
        TunnelError::Internal { .. } => (Code::Internal, Facts::new()),
    }
}

/// Transport failures arrive as a status whose message is only "transport error"; what happened is in its sources.
fn unavailable(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), Chain(source)),
        None => status.message().to_owned(),
    }
}

/// In TLS 1.3 a client has finished before the server looks at its certificate, and learns what the server thinks of it when it
/// waits for the first answer. On the way here the alert has become a text.
fn client_certificate_refused(status: &Status) -> Option<String> {
    let told = Chain(std::error::Error::source(status)?).to_string();
    let (_, alert) = told.split_once("fatal alert: ")?;
    let alert = alert.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    // (The last one is what a signature by another authority of the same name is.)
    let is_about_it = alert.contains("Certificate") || alert == "UnknownCA" || alert == "DecryptError";
    is_about_it.then(|| format!("the server does not accept our client certificate ({alert})"))
}

/// An error and all its sources on one line.
pub(super) struct Chain<'a>(pub(super) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut last: Cow<'_, str> = self.0.to_string().into();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            if text != last {
                write!(f, ": {text}")?;
            }
            last = text.into();
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_survives_the_wire() {
        let refusals = [
            TunnelError::invalid("address", "not an address"),
            TunnelError::NotFound,
            TunnelError::AddressTaken { address: "tcp://h:1".to_owned() },
            TunnelError::NotAllowed { why: "port 1 is not in the pool".to_owned() },
            TunnelError::Unauthenticated { why: "send a token".to_owned() },
            TunnelError::NotGranted { why: "port 1 is not among your ports".to_owned() },
            TunnelError::NameConflict { name: "blog".to_owned(), difference: "connections 4".to_owned() },
            TunnelError::LimitReached { limit: "no free port".to_owned(), retry_after: Some(Duration::from_secs(3)) },
            TunnelError::Unavailable { why: "draining".to_owned(), retry_after: None },
        ];
        for refusal in refusals {
            let status = Status::from(refusal.clone());
            assert_eq!(status.message(), refusal.to_string());
            assert_eq!(format!("{:?}", TunnelError::from(status)), format!("{refusal:?}"));
        }
    }

    #[test]
    fn an_internal_error_tells_the_caller_nothing() {
        let status = Status::from(TunnelError::internal("binding", std::io::Error::other("the secret path")));
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error while binding"));
        assert!(!format!("{status:?}").contains("secret"));
    }
}
