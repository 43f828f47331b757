/// Why an agent has not taken a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It certainly did nothing with it: another session may be tried.
    #[error("the agent did not look at the client")]
    Untouched,
    /// It would not or could not, or is gone: nobody knows what it did.
    #[error("the agent refused the client")]
    Refused,
}

impl From<Declined> for std::io::Error {
    fn from(declined: Declined) -> Self {
        Self::new(std::io::ErrorKind::ConnectionReset, declined)
    }
}
