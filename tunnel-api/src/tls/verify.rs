use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{CertificateRefused, Fingerprint, Trust, TrustError, trust::Anchor};

/// Looks at a server's certificate as we trust, and says in our words what is wrong with it, and which one it is.
#[derive(Debug)]
pub(super) struct Verify {
    by: By,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum By {
    /// Or else it is one of these and has the right name.
    Roots(Arc<WebPkiServerVerifier>, Vec<Fingerprint>),
    Pin(Fingerprint),
}

impl Verify {
    pub(super) fn new(trust: &Trust, provider: Arc<CryptoProvider>) -> Result<Self, TrustError> {
        let by_roots = |roots: RootCertStore, themselves: &[Fingerprint]| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map(|verifier| By::Roots(verifier, themselves.to_vec()))
                .map_err(|_| TrustError::NoRoots)
        };
        let by = match &trust.0 {
            Anchor::Pinned(fingerprint) => By::Pin(*fingerprint),
            Anchor::Ca(roots, themselves) => by_roots(roots.clone(), themselves)?,
            Anchor::System => by_roots(system_roots(), &[])?,
        };
        Ok(Self { by, provider })
    }
}

/// What cannot be read or parsed of them is left out.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl ServerCertVerifier for Verify {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint::of(end_entity);
        let refused = match &self.by {
            By::Pin(pinned) if *pinned == seen => return Ok(ServerCertVerified::assertion()),
            By::Pin(_) => CertificateRefused::NotPinned { seen },
            By::Roots(roots, themselves) => {
                let verified = roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
                match verified.or_else(|error| for_itself(end_entity, server_name, themselves, error)) {
                    Ok(verified) => return Ok(verified),
                    Err(error) => explain(error, seen, server_name),
                }
            }
        };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused)))))
    }

    /// A pinned certificate, too, must be of one who has its key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `openssl req -x509` makes authorities, which may not be servers by the book; whoever has put that very certificate among those
/// to be trusted means it.
fn for_itself(
    end_entity: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    themselves: &[Fingerprint],
    error: Error,
) -> Result<ServerCertVerified, Error> {
    let is_out_of_time = matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    );
    if is_out_of_time || !themselves.contains(&Fingerprint::of(end_entity)) {
        return Err(error);
    }
    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
    Ok(ServerCertVerified::assertion())
}

fn explain(error: Error, seen: Fingerprint, host: &ServerName<'_>) -> CertificateRefused {
    use CertificateError as Wrong;
    match error {
        // A bad signature, or one by another kind of key, is that of another authority of the same name.
        Error::InvalidCertificate(
            Wrong::UnknownIssuer | Wrong::BadSignature | Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => CertificateRefused::Unknown { seen },
        Error::InvalidCertificate(Wrong::NotValidForNameContext { presented, .. }) => {
            let names = presented.iter().map(|name| plain(name).to_owned()).collect();
            CertificateRefused::OtherHost { host: host.to_str().into_owned(), names, seen }
        }
        Error::InvalidCertificate(
            Wrong::Expired | Wrong::ExpiredContext { .. } | Wrong::NotValidYet | Wrong::NotValidYetContext { .. },
        ) => CertificateRefused::Expired { seen },
        error => CertificateRefused::Unusable { seen, why: error.to_string() },
    }
}

/// `DnsName("h.example")` is how the verifier writes a name.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}
