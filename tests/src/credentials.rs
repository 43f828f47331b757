//! A credentials file of its own for a server, and clients that have what stands in it.

use std::path::PathBuf;

use tempfile::TempDir;
use tonic::{
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tunnel_api::rpc::v1::client::TunnelClient;
use tunnel_server::{
    Running,
    auth::{
        Token,
        edit::{self, NewToken, Which},
    },
};

use crate::server::channel;

/// A credentials file.
#[derive(Debug)]
pub struct CredentialsFile {
    directory: TempDir,
}

/// A client that sends a token with each call.
pub type Authorized = TunnelClient<InterceptedService<Channel, Bearer>>;

impl CredentialsFile {
    /// Nobody is in it yet.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn new() -> Self {
        let file = Self { directory: tempfile::tempdir().expect("a directory") };
        std::fs::write(file.path(), "").expect("a file");
        file
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("credentials.toml")
    }

    /// A token that grants what most people get: any backend, ports of the server's choice, clients from anywhere.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn add(&self, owner: &str) -> Token {
        self.add_with(owner, |_| {})
    }

    /// The same with this changed.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn add_with(&self, owner: &str, change: impl FnOnce(&mut NewToken)) -> Token {
        let everybody = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network"));
        let mut new = NewToken {
            owner: owner.to_owned(),
            backends: vec!["*".to_owned()],
            clients: everybody.to_vec(),
            ..NewToken::default()
        };
        change(&mut new);
        edit::add(&self.path(), &new).expect("an entry").1
    }

    /// Takes all of an owner's credentials back.
    ///
    /// # Panics
    /// If there are none.
    pub fn revoke(&self, owner: &str) {
        edit::remove(&self.path(), &Which::Owner(owner.to_owned())).expect("an entry less");
    }
}

impl Default for CredentialsFile {
    fn default() -> Self {
        Self::new()
    }
}

/// The service as the token's owner sees it.
///
/// # Panics
/// If there is no connection to be had.
pub async fn rpc_as(server: &Running, token: &Token) -> Authorized {
    TunnelClient::with_interceptor(channel(server).await, Bearer::new(token.expose()))
}

/// Puts a token into each call.
#[derive(Clone, Debug)]
pub struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl Bearer {
    /// Whatever the token is.
    ///
    /// # Panics
    /// If it is no text.
    pub fn new(token: &str) -> Self {
        Self(format!("Bearer {token}").parse().expect("a header value"))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}
