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
pub struct ClientTls(Arc<Inner>);

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
        Self(Arc::new(Inner { trust, certificate, config: OnceLock::new() }))
    }

    /// Shakes hands over `io` with whoever must be `host`, to speak `protocol` (as in ALPN) then. The caller bounds the time.
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        host: &Host,
        protocol: &[u8],
    ) -> Result<TlsStream<IO>, HandshakeError> {
        let mut config = ClientConfig::clone(&*self.config()?);
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = server_name(host)?;
        TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(HandshakeError::of)
    }

    /// Fails where it cannot work with any server, so that one hears of it before the first.
    pub fn check(&self) -> Result<(), TrustError> {
        self.config().map(drop)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        if let Some(config) = self.0.config.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(self.0.build()?);
        // Another task may have been quicker; then its one is used, so that sessions are shared.
        Ok(self.0.config.get_or_init(|| config).clone())
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
        f.debug_struct("ClientTls").field("trust", &self.0.trust).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
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
}
