use std::{io, path::PathBuf};

use rustls::CertificateError;

use super::Fingerprint;
use crate::Host;

/// What is wrong with a PEM file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// It is not there, or not for us to read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has nothing of the kind in it.
    #[error("{} has no {what} in it; it must be PEM", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// A certificate, or a private key.
        what: &'static str,
    },
    /// It is broken.
    #[error("{} is no PEM file: {why}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Why no server could be trusted, or ours is no client certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The file's certificates are none that could vouch for others.
    #[error("{} has no certificate that can be trusted", path.display())]
    NoAnchor {
        /// Which file.
        path: PathBuf,
    },
    /// There are no trusted roots on this system.
    #[error("this system has no trusted certificates; give a CA file or the server's fingerprint")]
    NoRoots,
    /// The certificate and the key do not belong together.
    #[error("the certificate {} and the key {} do not belong together", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls cannot use them.
    #[error("these certificates cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// Why there is no TLS with a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// There is nothing to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Its certificate is not one we trust.
    #[error(transparent)]
    Certificate(#[from] CertificateRefused),
    /// It refused.
    #[error("the server refused the TLS handshake ({0}); if it has no TLS, write http:// instead of https://")]
    Refused(String),
    /// It hung up, or answered in another protocol.
    #[error("the server does not answer in TLS; if it has none, write http:// instead of https://")]
    NoTls,
    /// The host cannot be in a certificate.
    #[error("{host} is no name that a certificate could have")]
    NoName {
        /// Which host.
        host: Host,
    },
    /// The connection or the handshake broke.
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
}

/// Why a server's certificate is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRefused {
    /// Nobody we trust has signed it.
    #[error(
        "the server's certificate is not trusted; if it is yours, pin it with --fingerprint {seen} \
         (make sure that it is), or give --ca FILE"
    )]
    Unknown {
        /// Which one it is.
        seen: Fingerprint,
    },
    /// It is not the one that is pinned.
    #[error("the server's certificate is not the pinned one but {seen}; somebody is in between, or it was replaced")]
    NotPinned {
        /// Which one it is.
        seen: Fingerprint,
    },
    /// It is another host's.
    #[error("the server's certificate is for {}, not for {host}; connect by that name, or pin it with --fingerprint {seen}", names.join(", "))]
    OtherHost {
        /// Whom we connect to.
        host: String,
        /// Whose it is.
        names: Vec<String>,
        /// Which one it is.
        seen: Fingerprint,
    },
    /// Its time is up, or has not come.
    #[error("the server's certificate {seen} has expired or is not valid yet; renew it, and check both clocks")]
    Expired {
        /// Which one it is.
        seen: Fingerprint,
    },
    /// Something else is wrong with it.
    #[error("the server's certificate cannot be used ({why}); if it is yours, pin it with --fingerprint {seen}")]
    Unusable {
        /// Which one it is.
        seen: Fingerprint,
        /// What is wrong.
        why: String,
    },
}

impl HandshakeError {
    /// What an error of the handshake comes down to.
    pub(super) fn of(error: io::Error) -> Self {
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match told {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                match other.0.downcast_ref::<CertificateRefused>() {
                    Some(refused) => Self::Certificate(refused.clone()),
                    None => Self::Failed(error),
                }
            }
            Some(rustls::Error::AlertReceived(alert)) => Self::Refused(format!("{alert:?}")),
            Some(rustls::Error::InvalidMessage(_)) => Self::NoTls,
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::NoTls,
            _ => Self::Failed(error),
        }
    }
}
