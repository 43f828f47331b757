//! TLS at the door: the certificate we show, and the certificates that we want to see. They are files, and can be replaced
//! while we run: connections that are there go on as they began.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use tokio::{net::TcpStream, time::interval};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tunnel_api::tls::{PemError, certificates, private_key, provider};

use crate::{
    files::{LOOK, Watched},
    replay::Replay,
};

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, with the chain that leads to a root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who vouches for clients that have a certificate. They need not have one. Unset: none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The certificate and the key are no pair.
    #[error("the certificate {} and the key {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// Nothing in the file could vouch for clients.
    #[error("{} has no certificate that could vouch for clients: {why}", path.display())]
    ClientCa {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The server's half of TLS.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    watched: Mutex<Watched>,
    current: Mutex<Arc<Configs>>,
}

/// With whom we shake hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Whoever may have a certificate to show.
    Callers,
    /// Nobody who would have one for us: they are not asked.
    WebClients,
}

/// How, for each audience.
#[derive(Debug)]
struct Configs {
    callers: Arc<ServerConfig>,
    web_clients: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
        let watched = Watched::new(paths.into_iter().flatten().map(PathBuf::as_path));
        let configs = configs(&files)?;
        Ok(Arc::new(Self { files, watched: Mutex::new(watched), current: Mutex::new(configs) }))
    }

    /// Reads the files again, for the connections to come. Where they are no good, all stays as it is.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Looked at first: what is no good is looked at again when it has changed, and said once.
        self.have_changed();
        let configs = configs(&self.files)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// Reloads whenever the files have changed, until it is dropped.
    pub async fn watch(&self) {
        let mut ticks = interval(LOOK);
        loop {
            ticks.tick().await;
            if !self.have_changed() {
                continue;
            }
            match self.reload() {
                Ok(()) => tracing::info!(certificate = %self.files.certificate.display(), "certificate reloaded"),
                Err(error) => tracing::warn!(
                    cause = std::error::Error::source(&error),
                    "the new certificate is not used, the old one stays: {error}"
                ),
            }
        }
    }

    fn have_changed(&self) -> bool {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).have_changed()
    }

    /// Shakes hands. The caller bounds the time. A handshake that fails gives the socket back, with the alert sent.
    pub(crate) async fn accept(
        &self,
        socket: Replay<TcpStream>,
        audience: Audience,
    ) -> Result<TlsStream<Replay<TcpStream>>, (io::Error, Replay<TcpStream>)> {
        let configs = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = match audience {
            Audience::Callers => configs.callers.clone(),
            Audience::WebClients => configs.web_clients.clone(),
        };
        TlsAcceptor::from(config).accept(socket).into_fallible().await
    }
}

fn configs(files: &TlsFiles) -> Result<Arc<Configs>, TlsError> {
    let callers = config(files, files.client_ca.as_deref())?;
    let web_clients = if files.client_ca.is_none() { callers.clone() } else { config(files, None)? };
    Ok(Arc::new(Configs { callers, web_clients }))
}

fn config(files: &TlsFiles, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = (certificates(&files.certificate)?, private_key(&files.key)?);
    let unusable = |source| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), source };
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refused = |why: String| TlsError::ClientCa { path: path.to_owned(), why };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| refused(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = verifier.allow_unauthenticated().build().map_err(|error| refused(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
