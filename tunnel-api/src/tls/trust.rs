use std::{fmt, path::Path, str::FromStr};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};

use super::{TrustError, pem, provider};

/// Which servers are who they say they are.
#[derive(Debug, Clone, Default)]
pub struct Trust(pub(super) Anchor);

#[derive(Debug, Clone, Default)]
pub(super) enum Anchor {
    #[default]
    System,
    /// Roots, and which certificates they were made of.
    Ca(RootCertStore, Vec<Fingerprint>),
    Pinned(Fingerprint),
}

impl Trust {
    /// Those that this system's roots vouch for.
    pub fn system() -> Self {
        Self::default()
    }

    /// Those that a certificate in this PEM file vouches for, and no others. One that vouches for itself, as openssl makes them,
    /// may be in it, too.
    pub fn ca_file(path: &Path) -> Result<Self, TrustError> {
        let certificates = pem::certificates(path)?;
        let themselves = certificates.iter().map(|certificate| Fingerprint::of(certificate)).collect();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(TrustError::NoAnchor { path: path.to_owned() });
        }
        Ok(Self(Anchor::Ca(roots, themselves)))
    }

    /// The one that has this certificate, whatever name and dates are in it.
    pub fn fingerprint(fingerprint: Fingerprint) -> Self {
        Self(Anchor::Pinned(fingerprint))
    }
}

/// The SHA-256 of a certificate: `sha256:` and 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` prints them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write sha256: and the 64 hexadecimal digits of the certificate's SHA-256")]
pub struct FingerprintError;

impl Fingerprint {
    /// That of this certificate, in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// The SHA-256 itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Colons between the digits and the case of letters do not matter.
impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let (kind, digits) = text.split_once(':').ok_or(FingerprintError)?;
        if !kind.eq_ignore_ascii_case("sha256") {
            return Err(FingerprintError);
        }
        let digits: Vec<u8> = digits.bytes().filter(|b| *b != b':').collect();
        if digits.len() != 64 {
            return Err(FingerprintError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = hex(pair[0])? << 4 | hex(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex(digit: u8) -> Result<u8, FingerprintError> {
    let value = char::from(digit).to_digit(16).ok_or(FingerprintError)?;
    u8::try_from(value).map_err(|_| FingerprintError)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What we show to servers that want to know who we are: a certificate with its chain, and its key.
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientCertificate {
    /// From two PEM files, which may be the same.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TrustError> {
        let own = Self { chain: pem::certificates(certificate)?, key: pem::private_key(key)? };
        let (chain, private) = own.parts();
        match CertifiedKey::from_der(chain, private, &provider()) {
            Ok(_) => Ok(own),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(TrustError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() })
            }
            Err(error) => Err(TrustError::Unusable(error)),
        }
    }

    pub(super) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

impl Clone for ClientCertificate {
    fn clone(&self) -> Self {
        let (chain, key) = self.parts();
        Self { chain, key }
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}
