//! TLS to a tunnel server: whom to [trust](Trust), and [who we are](ClientCertificate). The RPC's client and the agents' dial-ins
//! share one [`ClientTls`]. rustls with ring, passed explicitly: whatever the process around us has made its default does not
//! matter.

mod error;
mod pem;
mod trust;
mod verify;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, crypto::CryptoProvider, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use self::verify::Verify;
use crate::Host;

pub use error::{CertificateRefused, HandshakeError, PemError, TrustError};
pub use pem::{certificates, private_key};
pub use trust::{ClientCertificate, Fingerprint, FingerprintError, Trust};

/// How we connect by TLS. Cheap to clone; sessions are resumed across all clones.
#[derive(Clone, Default)]
pub struct ClientTls {
    inner: Arc<Inner>,
    is_demanded: bool,
}

#[derive(Default)]
struct Inner {
    trust: Trust,
    certificate: Option<ClientCertificate>,
    /// Made when it is first needed: who connects to no server by TLS needs no trusted roots on the system.
    config: OnceLock<Arc<ClientConfig>>,
}

impl ClientTls {
    /// Trusts so, and shows this certificate to servers that ask for one.
    pub fn new(trust: Trust, certificate: Option<ClientCertificate>) -> Self {
        let inner = Arc::new(Inner { trust, certificate, config: OnceLock::new() });
        Self { inner, is_demanded: false }
    }

    /// For servers that are called by TLS: there is nothing that may go to them in any other way, whatever their URIs say.
    #[must_use]
    pub fn demanded(self) -> Self {
        Self { is_demanded: true, ..self }
    }

    /// Whether nothing secret may go out otherwise.
    pub fn is_demanded(&self) -> bool {
        self.is_demanded
    }

    /// Shakes hands over `io` with whoever must be `host`, to speak `protocol` (as in ALPN) then. The caller bounds the time.
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        host: &Host,
        protocol: &[u8],
    ) -> Result<TlsStream<IO>, HandshakeError> {
        self.connect_for_any(io, host, &[protocol]).await
    }

    /// The same to speak one of several protocols, of which the server chooses: the stream knows which.
    pub async fn connect_for_any<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        host: &Host,
        protocols: &[&[u8]],
    ) -> Result<TlsStream<IO>, HandshakeError> {
        let mut config = ClientConfig::clone(&*self.config()?);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = server_name(host)?;
        TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(HandshakeError::of)
    }

    /// Fails where it cannot work with any server, so that one hears of it before the first.
    pub fn check(&self) -> Result<(), TrustError> {
        self.config().map(drop)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        if let Some(config) = self.inner.config.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(self.inner.build()?);
        // Another task may have been quicker; then its one is used, so that sessions are shared.
        Ok(self.inner.config.get_or_init(|| config).clone())
    }
}

impl Inner {
    fn build(&self) -> Result<ClientConfig, TrustError> {
        let verify = Verify::new(&self.trust, provider())?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify));
        match &self.certificate {
            Some(certificate) => {
                let (chain, key) = certificate.parts();
                config.with_client_auth_cert(chain, key).map_err(TrustError::Unusable)
            }
            None => Ok(config.with_no_client_auth()),
        }
    }
}

/// What all our TLS is made of.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_name(host: &Host) -> Result<ServerName<'static>, HandshakeError> {
    match host.ip() {
        Some(ip) => Ok(ServerName::IpAddress(ip.into())),
        None => ServerName::try_from(host.to_string()).map_err(|_| HandshakeError::NoName { host: host.clone() }),
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("trust", &self.inner.trust)
            .field("is_demanded", &self.is_demanded)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{Certificate, CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[test]
    fn colons_and_case_of_a_fingerprint_do_not_matter() {
        let plain = format!("sha256:{}", "0aff".repeat(16));
        let fingerprint: Fingerprint = plain.parse().unwrap();
        assert_eq!(fingerprint.to_string(), plain);
        let pairs = ["0A:FF"; 16].join(":");
        assert_eq!(format!("SHA256:{pairs}").parse(), Ok(fingerprint));
        for text in
            ["", "sha256", "sha256:", "sha1:00", &plain[7..], &plain[..70], &plain.replace('f', "g"), "sha256:é"]
        {
            assert_eq!(text.parse::<Fingerprint>(), Err(FingerprintError), "{text}");
        }
    }

    /// What a client hears that wants to talk to 127.0.0.1 and meets somebody with this certificate.
    async fn meet(certificate: CertificateParams, trust: impl FnOnce(&Certificate) -> Trust) -> Result<(), String> {
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let server = tokio::spawn(TlsAcceptor::from(Arc::new(server)).accept(far));
        let tls = ClientTls::new(trust(&certificate), None);
        let met = tls.connect(near, &"127.0.0.1".parse().unwrap(), b"h2").await;
        server.abort();
        met.map(drop).map_err(|error| error.to_string())
    }

    fn certificate(name: &str) -> CertificateParams {
        CertificateParams::new(vec![name.to_owned()]).unwrap()
    }

    fn itself(certificate: &Certificate) -> Trust {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Trust(trust::Anchor::Ca(roots, vec![Fingerprint::of(certificate.der())]))
    }

    fn pinned(certificate: &Certificate) -> Trust {
        Trust::fingerprint(Fingerprint::of(certificate.der()))
    }

    /// As `openssl req -x509` makes them.
    fn authority(name: &str) -> CertificateParams {
        let mut params = certificate(name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    }

    #[tokio::test]
    async fn a_self_signed_certificate_is_its_own_authority() {
        assert_eq!(meet(certificate("127.0.0.1"), itself).await, Ok(()));
        assert_eq!(meet(authority("127.0.0.1"), itself).await, Ok(()));
    }

    #[tokio::test]
    async fn a_pinned_certificate_is_trusted_whatever_name_and_dates_are_in_it() {
        let mut old = certificate("elsewhere.example");
        old.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert_eq!(meet(old, pinned).await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_certificate_is_told_with_its_fingerprint() {
        let mut old = [certificate("127.0.0.1"), authority("127.0.0.1")];
        old.iter_mut().for_each(|old| old.not_after = rcgen::date_time_ymd(2020, 1, 1));
        let others = [certificate("elsewhere.example"), authority("elsewhere.example")];
        let old = old.map(|old| (old, "has expired"));
        let others = others.map(|other| (other, "is for elsewhere.example, not for 127.0.0.1"));
        for (certificate, words) in old.into_iter().chain(others) {
            let refused = meet(certificate, itself).await.unwrap_err();
            assert!(refused.contains(words) && refused.contains("sha256:"), "{refused}");
        }
    }

    #[tokio::test]
    async fn whoever_does_not_speak_tls_is_told_apart() {
        for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
            let (near, mut far) = tokio::io::duplex(4096);
            tokio::io::AsyncWriteExt::write_all(&mut far, answer.as_bytes()).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
            let refused = pinned_to_nothing().connect(near, &"127.0.0.1".parse().unwrap(), b"h2").await.unwrap_err();
            assert!(matches!(refused, HandshakeError::NoTls), "{answer:?}: {refused:?}");
        }
    }

    fn pinned_to_nothing() -> ClientTls {
        let nothing = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        ClientTls::new(Trust::fingerprint(nothing), None)
    }
}
