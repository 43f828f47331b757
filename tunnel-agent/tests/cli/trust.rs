use std::{
    fs, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::server::TcpIncoming};
use tunnel_api::{
    Caller, CloseReason, OpenTunnel, OpenedTunnel, PublicAddress, TunnelBackend, TunnelError, TunnelEvent,
    TunnelEvents, TunnelRef, TunnelUri, WatchFilter, What,
    rpc::TunnelService,
    tls::{Fingerprint, provider},
};
use tunnel_backends::{
    ports::{PortPool, PortRange},
    tcp::TcpConfig,
    tunnels::Tunnels,
};

use crate::rig::{Ended, finish, is_online, run, serve, service, start, start_unheard, tunnel, tunnels};

/// A server that wants this token. It can be another one later.
struct Guarded {
    url: String,
    backend: Arc<dyn TunnelBackend>,
    tunnels: Arc<Tunnels>,
    token: Arc<Mutex<String>>,
}

impl Guarded {
    async fn start(token: &str) -> Self {
        let (tunnels, pool) = (Tunnels::new(), || PortPool::new(PortRange::Kernel, Default::default()));
        let backend: Arc<dyn TunnelBackend> = Arc::new(TcpConfig::new("tcp", tunnels.clone(), pool(), pool()).build());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let token = Arc::new(Mutex::new(token.to_owned()));
        let wanted = token.clone();
        let check = move |request: Request<()>| {
            let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
            let wanted = format!("Bearer {}", wanted.lock().expect("the token"));
            if shown == Some(&wanted) { Ok(request) } else { Err(Status::unauthenticated("no good credentials")) }
        };
        let service = InterceptedService::new(TunnelService::new(backend.clone()).into_server(), check);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { url, backend, tunnels, token }
    }
}

/// TLS in front of a plain server.
struct InTls {
    url: String,
    fingerprint: String,
    directory: TempDir,
}

impl InTls {
    async fn in_front_of(url: &str) -> Self {
        let own = certificate();
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("cert.pem"), own.cert.pem()).expect("a file");
        fs::write(directory.path().join("key.pem"), own.signing_key.serialize_pem()).expect("a file");
        let der = own.cert.der().clone();
        let fingerprint = Fingerprint::of(&der).to_string();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(vec![der], key))
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let tls_url = format!("https://{}", listener.local_addr().expect("an address"));
        let server = url.trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(pass_on(acceptor.clone(), socket, server.clone()));
            }
        });
        Self { url: tls_url, fingerprint, directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

async fn pass_on(acceptor: TlsAcceptor, socket: TcpStream, server: String) -> io::Result<()> {
    let mut near = acceptor.accept(socket).await?;
    let mut far = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
}

fn certificate() -> CertifiedKey<KeyPair> {
    let signing_key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    CertifiedKey { cert: params.self_signed(&signing_key).expect("a certificate"), signing_key }
}

async fn run_in(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = tunnel(args);
    command.envs(variables.iter().copied());
    finish(command).await
}

#[tokio::test]
async fn a_server_is_trusted_by_its_fingerprint_or_by_a_ca_file() {
    let (_backend, url) = service().await;
    let server = InTls::in_front_of(&url).await;
    for (option, value) in [("--fingerprint", server.fingerprint.clone()), ("--ca", server.path("cert.pem"))] {
        let ended = run(&["list", "--server", &server.url, option, &value]).await;
        assert_eq!(ended.code, Some(0), "{option}: {}", ended.stderr);
    }
    let variables = [("TNL_SERVER", server.url.as_str()), ("TNL_FINGERPRINT", &server.fingerprint)];
    assert_eq!(run_in(&["list"], &variables).await.code, Some(0));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_with_the_option_that_would_trust_it() {
    let (_backend, url) = service().await;
    let (server, other) = (InTls::in_front_of(&url).await, InTls::in_front_of(&url).await);
    let ended = run(&["list", "--server", &server.url, "--ca", &other.path("cert.pem")]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let hint = format!("--fingerprint {}", server.fingerprint);
    assert!(ended.stderr.contains("is not trusted") && ended.stderr.contains(&hint), "{}", ended.stderr);
    let ended = run(&["list", "--server", &server.url, "--fingerprint", &other.fingerprint]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("not the pinned one"), "{}", ended.stderr);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let (_backend, url) = service().await;
    let server = InTls::in_front_of(&url).await;
    let (cert, key) = (server.path("cert.pem"), server.path("key.pem"));
    let other = InTls::in_front_of(&url).await.path("key.pem");
    for (options, words) in [
        (&["--ca", "/nowhere"][..], "/nowhere cannot be read"),
        (&["--ca", &key], "has no certificate in it"),
        (&["--client-cert", &cert, "--client-key", &cert], "has no private key in it"),
        (&["--client-cert", &cert, "--client-key", &other], "cannot be read"),
        (&["--token-file", "/nowhere"], "/nowhere cannot be read"),
        (&["--token-file", &cert], "has no token in it"),
    ] {
        let ended = run(&[&["list", "--server", &url], options].concat()).await;
        assert_eq!(ended.code, Some(1), "{options:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{options:?}: {}", ended.stderr);
    }
    let another = InTls::in_front_of(&url).await;
    let ended =
        run(&["list", "--server", &url, "--client-cert", &cert, "--client-key", &another.path("key.pem")]).await;
    assert!(ended.stderr.contains("do not belong together"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_token_comes_from_a_file_or_from_the_environment() {
    let server = Guarded::start("s3cret").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "s3cret\n").unwrap();
    let file = file.path().to_str().unwrap();
    let list = ["list", "--server", &server.url];
    for (options, variables) in [
        (&["--token-file", file][..], &[][..]),
        (&[], &[("TNL_TOKEN_FILE", file)]),
        (&[], &[("TNL_TOKEN", "s3cret")]),
        // What is in a file goes before.
        (&["--token-file", file], &[("TNL_TOKEN", "another")]),
    ] {
        let ended = run_in(&[&list, options].concat(), variables).await;
        assert_eq!(ended.code, Some(0), "{options:?} {variables:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn refused_credentials_end_with_77_and_are_not_repeated() {
    let server = Guarded::start("s3cret").await;
    for args in [&["list"][..], &["watch"], &["close", "db"], &["tcp", "1"]] {
        for variables in [&[][..], &[("TNL_TOKEN", "wr0ng")]] {
            let ended = run_in(&[args, &["--server", &server.url]].concat(), variables).await;
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(77), ""), "{args:?}: {}", ended.stderr);
            assert!(ended.stderr.contains("--token-file") && !ended.stderr.contains("wr0ng"), "{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_token_does_not_leave_this_host_unencrypted_unless_it_may() {
    let server = Guarded::start("s3cret").await;
    // It leads to this host, but need not.
    let url = server.url.replace("127.0.0.1", "0.0.0.0");
    let list = ["list", "--server", &url];
    let token = ("TNL_TOKEN", "s3cret");
    let ended = run_in(&list, &[token]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("unencrypted") && ended.stderr.contains("--insecure"), "{}", ended.stderr);
    assert_eq!(run_in(&[&list[..], &["--insecure"]].concat(), &[token]).await.code, Some(0));
    assert_eq!(run_in(&list, &[token, ("TNL_INSECURE", "true")]).await.code, Some(0));
}

#[tokio::test]
async fn an_agent_that_is_refused_when_it_comes_back_ends_with_77() {
    let server = Guarded::start("s3cret").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "s3cret").unwrap();
    let args = ["tcp", "1", "--server", &server.url, "--token-file", file.path().to_str().unwrap()];
    let running = start(&args).await;
    is_online(&server.backend).await;

    "another".clone_into(&mut server.token.lock().unwrap());
    server.tunnels.drain(Duration::ZERO).await;

    let ended = running.end().await;
    assert_eq!(ended.code, Some(77), "{}", ended.stderr);
    assert!(ended.stderr.contains("refuses the credentials"), "{}", ended.stderr);
}

/// A backend that says of each tunnel that is closed that its credentials were revoked.
struct Revoking {
    inner: Arc<dyn TunnelBackend>,
    /// Told when somebody watches who has heard the present state.
    is_watched: Arc<Notify>,
}

#[async_trait]
impl TunnelBackend for Revoking {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.inner.open_tunnel(caller, request).await
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.inner.get_tunnel_address(caller, uri).await
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let is_watched = self.is_watched.clone();
        let revoked = move |event: Result<TunnelEvent, TunnelError>| {
            event.map(|event| match event.what {
                What::Ready => {
                    is_watched.notify_one();
                    event
                }
                What::Closed { .. } => TunnelEvent { what: What::Closed { reason: CloseReason::Revoked }, ..event },
                _ => event,
            })
        };
        Ok(self.inner.watch_tunnels(caller, filter).await?.map(revoked).boxed())
    }
}

#[tokio::test]
async fn an_agent_whose_credentials_are_revoked_ends_with_77() {
    let (backend, _) = service().await;
    let is_watched = Arc::new(Notify::new());
    let url = serve(Arc::new(Revoking { inner: backend.clone(), is_watched: is_watched.clone() })).await;
    let running = start(&["tcp", "1", "--name", "db", "--server", &url]).await;
    // One that is closed before its agent watches was closed by whomever.
    is_watched.notified().await;

    let name = TunnelRef::Name("db".parse().unwrap());
    backend.close_tunnel(&Caller::embedded(), &name).await.unwrap();

    let ended = running.end().await;
    assert_eq!(ended.code, Some(77), "{}", ended.stderr);
    assert!(ended.stderr.contains("revoked"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_token_file_may_be_replaced_while_the_agent_runs() {
    let server = Guarded::start("one").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "one").unwrap();
    let args = ["tcp", "1", "--server", &server.url, "--token-file", file.path().to_str().unwrap()];
    let running = start_unheard(&args);
    is_online(&server.backend).await;

    fs::write(file.path(), "two").unwrap();
    "two".clone_into(&mut server.token.lock().unwrap());
    running.signal("-INT").await;

    assert_eq!(running.end().await.code, Some(0));
    // It could close its tunnel.
    assert!(tunnels(&server.backend).await.is_empty());
}
