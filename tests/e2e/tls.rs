//! TLS at the one port, for calls and for agents.

use std::{
    fs, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tunnel_agent::{Agent, AgentState, Tunnel, TunnelListener, TunnelStream};
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, TunnelBackend,
    rpc::{Connect, ConnectError, RemoteBackend},
    tls::{ClientTls, Trust},
};
use tunnel_server::{Config, Running, Server, config::HostPort};
use tunnel_tests::{
    certificates::Certificates,
    client::{Ended, ask, at, get, hear_out},
    credentials::CredentialsFile,
    detour::Detour,
    limit::within,
    server::server_with,
};

each_backend! {
    a_tunnel_over_tls_serves_its_clients
    an_agent_whose_token_is_revoked_ends_for_good
}

async fn tls_server(certificates: &Certificates) -> Running {
    server_with(|config| certificates.serve(config)).await
}

async fn listen(server: &Running, trust: Trust, backend: &str) -> TunnelListener {
    let agent = Agent::builder(server.url()).trust(trust).connect().await.expect("the server answers");
    agent.open(Tunnel::tcp().backend(backend)).await.expect("a tunnel")
}

async fn remote(url: &str, trust: Trust) -> Result<RemoteBackend, ConnectError> {
    Connect::to(url).tls(ClientTls::new(trust, None)).connect().await
}

async fn open_mux(backend: &impl TunnelBackend) -> OpenedTunnel {
    let request = OpenTunnel { backend: Some("mux".to_owned()), ..OpenTunnel::default() };
    backend.open_tunnel(&Caller::embedded(), request).await.expect("a tunnel")
}

async fn echo(mut stream: TunnelStream) -> io::Result<()> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await?;
    stream.write_all(&heard).await?;
    stream.shutdown().await
}

async fn a_tunnel_over_tls_serves_its_clients(backend: &str) {
    let certificates = Certificates::new();
    let server = tls_server(&certificates).await;
    assert!(server.url().starts_with("https://"), "{}", server.url());
    for trust in [certificates.trust(), Trust::fingerprint(certificates.fingerprint("server"))] {
        let mut tunnel = listen(&server, trust, backend).await;
        let address = at(&tunnel.address().to_string());
        let question: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let (answer, served) = tokio::join!(ask(address, &question), async { echo(tunnel.accept().await?).await });
        served.unwrap();
        assert!(answer.unwrap() == question, "another answer");
    }
}

async fn an_agent_whose_token_is_revoked_ends_for_good(backend: &str) {
    let (certificates, credentials) = (Certificates::new(), CredentialsFile::new());
    let token = credentials.add("alice");
    let server = server_with(|config| {
        certificates.serve(config);
        config.credentials = Some(credentials.path());
    })
    .await;
    let agent = Agent::builder(server.url()).trust(certificates.trust()).token(token.expose());
    let tunnel = agent.connect().await.unwrap().open(Tunnel::tcp().backend(backend).name("blog")).await.unwrap();
    let mut state = tunnel.state();
    state.wait_for(|state| *state == AgentState::Online).await.unwrap();

    credentials.revoke("alice");

    let end = *state.wait_for(|state| state.is_final()).await.unwrap();
    assert_eq!(end, AgentState::Refused);
}

#[tokio::test]
async fn who_calls_by_tls_is_to_dial_in_by_tls_and_who_calls_plain_on_this_host_need_not() {
    within(async {
        let certificates = Certificates::new();
        let server = tls_server(&certificates).await;
        let plain_url = server.url().replace("https://", "http://");
        let by_tls = remote(&server.url(), certificates.trust()).await.unwrap();
        assert_eq!(open_mux(&by_tls).await.uri.scheme(), "ptths");
        let plain = RemoteBackend::connect(&plain_url).await.unwrap();
        assert_eq!(open_mux(&plain).await.uri.scheme(), "ptth");
        assert_eq!(get(server.addr(), "/").await.unwrap().0, 200);
    })
    .await;
}

/// It has the URI of whoever opened it first, on the server's own machine, in clear.
#[tokio::test]
async fn an_agent_that_calls_by_tls_never_dials_in_clear() {
    within(async {
        let certificates = Certificates::new();
        let passage = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = passage.local_addr().unwrap().port();
        let server = server_with(|config| {
            certificates.serve(config);
            config.advertise.agents = Some(HostPort { host: "127.0.0.1".parse().unwrap(), port: Some(port) });
        })
        .await;
        let name = || Some("blog".parse().unwrap());
        let request = OpenTunnel { backend: Some("mux".to_owned()), name: name(), ..OpenTunnel::default() };
        let plain = RemoteBackend::connect(&server.url().replace("https", "http")).await.unwrap();
        let opened = plain.open_tunnel(&Caller::embedded(), request).await.unwrap();
        assert_eq!(opened.uri.scheme(), "ptth");

        let agent = Agent::builder(server.url()).trust(certificates.trust()).connect().await.unwrap();
        let _listener = agent.open(Tunnel::tcp().backend("mux").name("blog")).await.unwrap();
        let (mut dialled, _) = passage.accept().await.unwrap();
        let mut first = [0];
        dialled.read_exact(&mut first).await.unwrap();
        assert_eq!(first, [0x16], "a handshake");
    })
    .await;
}

#[tokio::test]
async fn what_comes_from_a_proxy_that_ends_tls_is_encrypted_and_dials_its_port() {
    within(async {
        let server = server_with(|config| {
            config.insecure = true;
            config.tls_terminated_by = vec!["127.0.0.0/8".parse().unwrap()];
            config.advertise.agents = Some(HostPort { host: "tunnels.example".parse().unwrap(), port: Some(443) });
        })
        .await;
        let uri = open_mux(&RemoteBackend::connect(&server.url()).await.unwrap()).await.uri;
        assert_eq!((uri.scheme(), uri.host().to_string().as_str(), uri.port()), ("ptths", "tunnels.example", 443));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_by_its_fingerprint_and_by_what_to_do() {
    within(async {
        let (certificates, others) = (Certificates::new(), Certificates::new());
        let server = tls_server(&certificates).await;
        let seen = certificates.fingerprint("server").to_string();
        for (trust, words) in [
            (Trust::system(), &["not trusted", "--fingerprint", "--ca", &seen][..]),
            (others.trust(), &["not trusted", "--fingerprint", "--ca", &seen]),
            (Trust::fingerprint(others.fingerprint("server")), &["not the pinned one", &seen]),
        ] {
            let refused = remote(&server.url(), trust).await.unwrap_err();
            // A system without any roots is refused in other words.
            if matches!(refused, ConnectError::Trust(_)) {
                continue;
            }
            assert!(matches!(refused, ConnectError::NotTrusted { .. }), "{refused:?}");
            for word in words {
                assert!(refused.to_string().contains(word), "{refused} lacks {word}");
            }
        }
        certificates.issue("server", &["tunnels.example"]);
        let server = tls_server(&certificates).await;
        let refused = remote(&server.url(), certificates.trust()).await.unwrap_err().to_string();
        assert!(refused.contains("is for tunnels.example, not for 127.0.0.1"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_server_without_tls_says_so_in_tls() {
    within(async {
        let server = server_with(|_| {}).await;
        let url = server.url().replace("http://", "https://");
        let refused = remote(&url, Certificates::new().trust()).await.unwrap_err();
        assert!(matches!(refused, ConnectError::NoTls { .. }), "{refused:?}");
        assert!(refused.to_string().contains("write http://"), "{refused}");
    })
    .await;
}

/// Some answer a plain call in TLS, which is an alert.
#[tokio::test]
async fn a_plain_call_to_a_server_that_wants_tls_is_told_so() {
    within(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let _stranger = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(&[0x15, 3, 3, 0, 2, 2, 70]).await;
                let _ = socket.shutdown().await;
                let _ = socket.read_to_end(&mut Vec::new()).await;
            }
        });
        let refused = match RemoteBackend::connect(&url).await {
            Err(refused) => refused.to_string(),
            Ok(remote) => {
                let page = Page { after: None, limit: 1 };
                format!("{:#}", anyhow::Error::from(remote.list_tunnels(&Caller::embedded(), &page).await.unwrap_err()))
            }
        };
        assert!(refused.contains("write https://"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_replaced_under_a_running_stream() {
    within(async {
        let certificates = Certificates::new();
        let server = tls_server(&certificates).await;
        let mut tunnel = listen(&server, certificates.trust(), "mux").await;
        let mut client = TcpStream::connect(at(&tunnel.address().to_string())).await.unwrap();
        client.write_all(b"before").await.unwrap();
        let mut stream = tunnel.accept().await.unwrap();
        stream.read_exact(&mut [0; 6]).await.unwrap();

        let old = certificates.fingerprint("server");
        certificates.issue("server", &["127.0.0.1"]);
        let new = certificates.fingerprint("server");
        assert_ne!(old, new);
        // It is noticed without being told.
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while remote(&server.url(), Trust::fingerprint(new)).await.is_err() {
            ticks.tick().await;
        }

        client.write_all(b"after").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        let _another = listen(&server, certificates.trust(), "mux").await;
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_no_good_leaves_the_old_one() {
    within(async {
        let certificates = Certificates::new();
        let mut config = Config::local();
        certificates.serve(&mut config);
        let server = Server::start(config.clone()).await.unwrap();
        let (old, key) = (certificates.fingerprint("server"), certificates.path("server.key.pem"));
        certificates.issue("other", &["127.0.0.1"]);
        let other = fs::read(certificates.path("other.key.pem")).unwrap();
        for (broken, word) in [(&b"nothing"[..], "has no private key"), (&other, "cannot be used together")] {
            fs::write(&key, broken).unwrap();
            let refused = format!("{:#}", anyhow::Error::from(server.reload(&config).unwrap_err()));
            assert!(refused.contains(word) && refused.contains("server.key.pem"), "{refused}");
            remote(&server.url(), Trust::fingerprint(old)).await.unwrap();
        }
    })
    .await;
}

/// However they are: silent, dribbling, talking nonsense, half done.
#[tokio::test]
async fn tls_peers_that_do_not_come_to_the_point_are_closed_in_time_and_disturb_nobody() {
    within(async {
        let certificates = Certificates::new();
        let server = server_with(|config| {
            certificates.serve(config);
            config.door.first_unit = Duration::from_millis(500);
        })
        .await;
        let start = Instant::now();
        let mut peers = Vec::new();
        // A ClientHello that stops, a record of nonsense, one of another kind, and a first byte alone.
        let half = [0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7, 7];
        for bytes in [&half[..], &[0x16; 600], &[0x16, 3, 1, 0, 4, 99, 0, 0, 0], &[0x16]] {
            for _ in 0..20 {
                let mut socket = TcpStream::connect(server.addr()).await.unwrap();
                socket.write_all(bytes).await.unwrap();
                peers.push(socket);
            }
        }
        // Whoever has shaken hands and says nothing is no better.
        let tls = ClientTls::new(certificates.trust(), None);
        let socket = TcpStream::connect(server.addr()).await.unwrap();
        let mut shaken = tls.connect(socket, &"127.0.0.1".parse().unwrap(), b"h2").await.unwrap();

        let call = async { open_mux(&remote(&server.url(), certificates.trust()).await.unwrap()).await };
        timeout(Duration::from_secs(1), call).await.expect("an answer in time");
        for mut peer in peers {
            timeout(Duration::from_secs(5), hear_out(&mut peer)).await.expect("an end");
        }
        let _ = timeout(Duration::from_secs(5), shaken.read(&mut [0])).await.expect("an end");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_client_hello_in_pieces_of_one_byte_is_one() {
    within(async {
        let certificates = Certificates::new();
        let server = tls_server(&certificates).await;
        let tls = ClientTls::new(certificates.trust(), None);
        let socket = TcpStream::connect(server.addr()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let host = "127.0.0.1".parse().unwrap();
        let mut stream = tls.connect(ByteByByte(socket), &host, b"http/1.1").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        // It says goodbye in TLS: otherwise this would be an error.
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    })
    .await;
}

/// Whoever is between can end the connection, but not so that it looks like the end of what was said.
#[tokio::test]
async fn a_session_that_is_cut_short_by_somebody_between_aborts_its_streams() {
    within(async {
        let certificates = Certificates::new();
        let server = tls_server(&certificates).await;
        let tls = ClientTls::new(certificates.trust(), None);
        let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = remote(&server.url(), certificates.trust()).await.unwrap();
        let detour = Detour { backend: Arc::new(backend), by: between.local_addr().unwrap() };
        let (cut, is_cut) = oneshot::channel::<()>();
        let server_addr = server.addr();
        tokio::spawn(async move {
            let (mut near, _) = between.accept().await.unwrap();
            let mut far = TcpStream::connect(server_addr).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut => {}
            }
            // A clean end of TCP, both ways.
            let _ = tokio::join!(near.shutdown(), far.shutdown());
            std::future::pending::<()>().await;
        });
        let agent = Agent::embedded(Arc::new(detour)).with_tls(tls);
        let mut tunnel = agent.open(Tunnel::tcp().backend("mux")).await.unwrap();
        let mut client = TcpStream::connect(at(&tunnel.address().to_string())).await.unwrap();
        let mut stream = tunnel.accept().await.unwrap();
        stream.write_all(b"half an ans").await.unwrap();
        client.read_exact(&mut [0; 11]).await.unwrap();

        cut.send(()).unwrap();

        assert_eq!(hear_out(&mut client).await, (Vec::new(), Ended::Reset));
        assert!(stream.read(&mut [0]).await.is_err(), "the agent takes it for an end");
    })
    .await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_start() {
    let certificates = Certificates::new();
    for (file, words) in [("server.pem", "has no certificate"), ("server.key.pem", "has no private key")] {
        fs::write(certificates.path(file), "nothing").unwrap();
        let mut config = Config::local();
        certificates.serve(&mut config);
        let refused = Server::start(config).await.unwrap_err();
        let why = format!("{:#}", anyhow::Error::from(refused));
        assert!(why.contains(words) && why.contains(file), "{why}");
        certificates.issue("server", &["127.0.0.1"]);
    }
}

/// A connection that sends each byte on its own.
struct ByteByByte(TcpStream);

impl AsyncRead for ByteByByte {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
