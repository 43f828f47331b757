use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

/// Why a call was refused. A variant exists because a caller acts differently on it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The request must be changed before it can succeed.
    #[error("{field}: {why}")]
    Invalid {
        /// The field to blame, by its name in the .proto.
        field: Cow<'static, str>,
        /// What is wrong with it and what to write instead.
        why: Cow<'static, str>,
    },

    /// Unknown, closed, expired, forged and somebody else's: all the same.
    #[error("no such tunnel: it never was, has closed or has expired; open it again")]
    NotFound,

    /// The address asked for is in use. Another one may be free.
    #[error("{address} is taken; ask for another or let one be chosen")]
    AddressTaken {
        /// The address asked for.
        address: String,
    },

    /// This server does not hand out what was asked for, to anybody or to this caller.
    #[error("{why}")]
    NotAllowed {
        /// What, and which setting would allow it.
        why: String,
    },

    /// Nobody knows who is calling: no credentials, or none that are good.
    #[error("{why}")]
    Unauthenticated {
        /// What is wrong, and where credentials come from. The same for all that are wrong.
        why: String,
    },

    /// The caller's credentials do not grant what was asked for.
    #[error("{why}")]
    NotGranted {
        /// What, and which grant would allow it.
        why: String,
    },

    /// The name is open with other parameters.
    #[error("the name {name} is open with {difference}; close it first, or open it as it is")]
    NameConflict {
        /// The name.
        name: String,
        /// Which parameter differs, and how.
        difference: String,
    },

    /// A limit was reached. Asking for less, or later, may work.
    #[error("{limit}")]
    LimitReached {
        /// Which limit, and what would help.
        limit: String,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },

    /// The service cannot answer now; nothing is wrong with the request.
    #[error("{why}")]
    Unavailable {
        /// What is in the way.
        why: String,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },

    /// This backend does not offer this call.
    #[error("{call} is not offered by this backend")]
    Unsupported {
        /// The call, by its name in the .proto.
        call: &'static str,
    },

    /// A fault of ours. Callers over the RPC learn no more than that; our log has the source.
    #[error("internal error while {doing}")]
    Internal {
        /// What was being done.
        doing: Cow<'static, str>,
        /// What went wrong.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl TunnelError {
    /// The request's `field` must be changed.
    pub fn invalid(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    /// Something of ours failed.
    pub fn internal(doing: impl Into<Cow<'static, str>>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal { doing: doing.into(), source: Arc::from(source.into()) }
    }

    /// What kind of refusal it is: a word for programs, as the RPC has it in `ErrorInfo`, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "INVALID",
            Self::NotFound => "NOT_FOUND",
            Self::AddressTaken { .. } => "ADDRESS_TAKEN",
            Self::NotAllowed { .. } => "NOT_ALLOWED",
            Self::Unauthenticated { .. } => "UNAUTHENTICATED",
            Self::NotGranted { .. } => "NOT_GRANTED",
            Self::NameConflict { .. } => "NAME_CONFLICT",
            Self::LimitReached { .. } => "LIMIT_REACHED",
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Unsupported { .. } => "UNSUPPORTED",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    /// The service is going away.
    pub fn draining() -> Self {
        Self::Unavailable { why: "the server is draining; try again".to_owned(), retry_after: None }
    }
}
