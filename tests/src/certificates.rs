//! Certificates for servers and callers, and the authority behind them, as files in a directory of their own.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tunnel_api::tls::{ClientCertificate, Fingerprint, Trust, certificates};
use tunnel_server::{Config, config::Tls};

/// An authority, and what it has issued. The files are gone when this is dropped.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// An authority, and a server's certificate for loopback.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("a certificate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).expect("a certificate").pem())
            .expect("a file");
        let all = Self { directory, authority: Issuer::new(params, key) };
        all.issue("server", &["127.0.0.1", "localhost"]);
        all
    }

    /// Issues a certificate for these names to `NAME.pem`, with its key in `NAME.key.pem`, in place of what was there.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn issue(&self, name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        fs::write(self.path(&format!("{name}.key.pem")), key.serialize_pem()).expect("a file");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("a file");
    }

    /// One of the files.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Puts the server's certificate into a config.
    pub fn serve(&self, config: &mut Config) {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key.pem"));
        config.tls = Some(Tls { certificate, key, client_ca: None });
    }

    /// Whoever this authority vouches for.
    ///
    /// # Panics
    /// If its file is gone.
    pub fn trust(&self) -> Trust {
        Trust::ca_file(&self.path("ca.pem")).expect("the authority's certificate")
    }

    /// That of the certificate that was last issued under this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn fingerprint(&self, name: &str) -> Fingerprint {
        Fingerprint::of(&certificates(&self.path(&format!("{name}.pem"))).expect("a certificate")[0])
    }

    /// A caller's certificate.
    ///
    /// # Panics
    /// If there is none.
    pub fn client(&self, name: &str) -> ClientCertificate {
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key.pem")));
        ClientCertificate::from_files(&certificate, &key).expect("a pair")
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
