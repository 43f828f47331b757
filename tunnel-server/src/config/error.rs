use std::{fmt, io, path::PathBuf};

use tunnel_backends::tls::TlsError;

/// Why a config is refused: where, what is wrong, and what to write instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML, or a key or value in it is none of ours. The message shows the line.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What and where, with the line itself.
        message: String,
    },
    /// The certificates cannot be used.
    #[error("no TLS")]
    Tls(#[from] TlsError),
    /// Each key is fine, but they do not fit together.
    #[error("{place}{key}: {why}")]
    Impossible {
        /// The file and line, where the config came from a file that has the key.
        place: Place,
        /// The key to change.
        key: String,
        /// What is wrong and what to write instead.
        why: String,
    },
}

/// A line of a file, or nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place(Option<(PathBuf, usize)>);

impl Place {
    pub(super) fn line(path: PathBuf, line: usize) -> Self {
        Self(Some((path, line)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((path, line)) => write!(f, "{}:{line}: ", path.display()),
            None => Ok(()),
        }
    }
}
