//! What the server's log says, and what it never says.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "all of this is tests, also what they share")]

use std::{path::PathBuf, process::Stdio, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Code, Request};
use tunnel_api::{
    TunnelUri,
    rpc::v1::{
        CloseTunnelRequest, GetTunnelAddressRequest, ListTunnelsRequest, OpenTunnelRequest, OpenTunnelResponse,
        RequestEnded, StreamEnd, WatchTunnelsRequest, client::TunnelClient, close_tunnel_request::Tunnel as Which,
        watch_tunnels_response::Event,
    },
};
use tunnel_server::auth::{
    Token,
    edit::{self, NewToken},
};

/// A server that asks for credentials, and alice's.
struct Server {
    child: Child,
    /// What it says, read as it comes while somebody listens.
    lines: mpsc::UnboundedReceiver<String>,
    listens: watch::Sender<bool>,
    /// What it has said so far.
    said: String,
    addr: String,
    admin: String,
    token: Token,
    directory: TempDir,
}

impl Server {
    async fn start(format: &str, level: &str) -> Self {
        Self::configured("", format, level).await
    }

    async fn configured(config: &str, format: &str, level: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let credentials = file("credentials.toml", "");
        let everybody = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap());
        let new = NewToken {
            owner: "alice".to_owned(),
            backends: vec!["*".to_owned()],
            clients: everybody.to_vec(),
            ..NewToken::default()
        };
        let token = edit::add(&credentials, &new).unwrap().1;
        let config = format!("credentials = 'credentials.toml'\n[ports]\npublic = 0\ndial_in = 0\n{config}");
        let config = file("config.toml", &config);
        let mut child = Command::new(env!("CARGO_BIN_EXE_tunnel-server"))
            .args(["--config", config.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--log-format", format])
            .env("RUST_LOG", level)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (say, lines) = mpsc::unbounded_channel();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (listens, mut is_listening) = watch::channel(true);
        tokio::spawn(async move {
            while is_listening.wait_for(|listens| *listens).await.is_ok() {
                let line = tokio::select! {
                    line = stderr.next_line() => line.unwrap(),
                    stops = is_listening.wait_for(|listens| !listens) => if stops.is_ok() { continue } else { break },
                };
                let Some(line) = line else { break };
                if say.send(line + "\n").is_err() {
                    break;
                }
            }
        });
        let (addr, admin) = (String::new(), String::new());
        let mut server = Self { child, lines, listens, said: String::new(), addr, admin, token, directory };
        server.addr = server.hear("tunnel-server listens on ").await;
        server.admin = server.hear("  see   http://").await.trim_end_matches("/metrics").to_owned();
        server
    }

    /// What follows these words on a line of their own.
    async fn hear(&mut self, words: &str) -> String {
        loop {
            let line = timeout(LIMIT, self.lines.recv()).await.expect("a line in time");
            let line = line.unwrap_or_else(|| panic!("it ended: {}", self.said));
            self.said += &line;
            if let Some((_, rest)) = line.split_once(words) {
                return rest.trim().to_owned();
            }
        }
    }

    async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }

    /// Stops it, and gives all it has said.
    async fn stop(mut self) -> String {
        self.terminate().await;
        while let Some(line) = timeout(LIMIT, self.lines.recv()).await.expect("an end in time") {
            self.said += &line;
        }
        timeout(LIMIT, self.child.wait()).await.expect("an end in time").unwrap();
        self.said
    }

    /// Says this on a connection of its own, and gives the head of the answer.
    async fn say(&self, addr: &str, request: String) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(timeout(LIMIT, socket.read_buf(&mut heard)).await.expect("an answer").unwrap(), 0);
        }
        String::from_utf8_lossy(&heard).into_owned()
    }

    async fn dial_in(&self, credentials: &str) -> String {
        let encoded = BASE64_STANDARD.encode(credentials);
        let request = format!(
            "GET /.well-known/ptth// HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: ptth\r\nalpn: h2\r\n\
             authorization: Basic {encoded}\r\n\r\n"
        );
        self.say(&self.addr, request).await
    }

    async fn metrics(&self) -> String {
        let mut socket = TcpStream::connect(&self.admin).await.unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut text = String::new();
        timeout(LIMIT, socket.read_to_string(&mut text)).await.expect("an answer").unwrap();
        text
    }
}

fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Uses and misuses a server with everything secret that there is, and gives it.
async fn use_and_misuse(server: &Server) -> Vec<String> {
    let token = server.token.expose().to_owned();
    let stolen = Token::generate().expose().to_owned();
    let mut rpc = TunnelClient::connect(format!("http://{}", server.addr)).await.unwrap();
    let open = OpenTunnelRequest { backend: "mux".to_owned(), ..OpenTunnelRequest::default() };
    let refused = rpc.open_tunnel(bearing(&stolen, open.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let opened: OpenTunnelResponse = rpc.open_tunnel(bearing(&token, open)).await.unwrap().into_inner();
    let uri = GetTunnelAddressRequest { uri: opened.uri.clone() };
    rpc.get_tunnel_address(bearing(&token, uri)).await.unwrap();
    let forged = opened.uri.replace(&opened.id, "t-0");
    rpc.get_tunnel_address(bearing(&token, GetTunnelAddressRequest { uri: forged })).await.unwrap_err();

    let plain = format!("GET / HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\ncookie: {stolen}\r\n\r\n");
    server.say(&server.addr, plain).await;
    let (_, credentials) = opened.uri.split_once("://").unwrap();
    let credentials = credentials.split_once('@').unwrap().0.to_owned();
    assert!(server.dial_in(&credentials).await.starts_with("HTTP/1.1 101"));
    let forged = format!("t-0:{stolen}");
    assert!(server.dial_in(&forged).await.starts_with("HTTP/1.1 401"));

    let which = Some(Which::Uri(opened.uri.clone()));
    rpc.close_tunnel(bearing(&token, CloseTunnelRequest { tunnel: which })).await.unwrap();
    let ticket = credentials.split_once(':').unwrap().1.to_owned();
    let _: TunnelUri = opened.uri.parse().unwrap();
    let encoded = [&token, &stolen, &credentials, &forged, &ticket].map(|secret| BASE64_STANDARD.encode(secret));
    // The ends of these depend on what is encoded beside them.
    let encoded = encoded.map(|text| text.trim_end_matches('=')[..20].to_owned());
    [token, stolen, ticket].into_iter().chain(encoded).collect()
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_in_the_metrics_however_much_is_logged() {
    for format in ["text", "json"] {
        let server = Server::start(format, "trace").await;
        let secrets = use_and_misuse(&server).await;
        let metrics = server.metrics().await;
        let log = server.stop().await;
        assert!(log.contains("h2::") || log.contains("hyper"), "nothing is traced: what does this test look at?");
        for secret in &secrets {
            let found = log.lines().chain(metrics.lines()).find(|line| line.contains(secret.as_str()));
            assert_eq!(found, None, "{format}: {secret}");
        }
    }
}

#[tokio::test]
async fn the_audit_log_has_a_line_for_each_open_close_and_refusal() {
    let server = Server::start("json", "info").await;
    use_and_misuse(&server).await;
    let log = server.stop().await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let audit: Vec<_> = lines.iter().filter(|line| line["target"] == "audit").collect();
    let told = |event: &str| audit.iter().filter(|line| line["event"] == event).copied().collect::<Vec<_>>();

    let [opened] = told("open")[..] else { panic!("{audit:#?}") };
    assert_eq!((&opened["owner"], &opened["level"]), (&"alice".into(), &"INFO".into()));
    assert!(opened["credential"].is_string() && opened["peer.addr"].is_string(), "{opened}");
    let [closed] = told("close")[..] else { panic!("{audit:#?}") };
    assert_eq!((&closed["owner"], &closed["reason"]), (&"alice".into(), &"requested".into()));
    assert_eq!(closed["tunnel.id"], opened["tunnel.id"]);
    for field in ["backend", "seconds", "streams", "bytes.to_agent", "bytes.to_client"] {
        assert!(!closed[field].is_null(), "{closed}");
    }
    let refused: Vec<_> = told("refusal").iter().map(|line| (line["what"].clone(), line["reason"].clone())).collect();
    let expected = [("call", "UNAUTHENTICATED"), ("GetTunnelAddress", "NOT_FOUND"), ("dial_in", "UNAUTHENTICATED")];
    assert_eq!(refused, expected.map(|(what, reason)| (what.into(), reason.into())));
    // And but for that an operator has little to read: where the state is, that credentials were read, that it stops.
    let others: Vec<_> = lines.iter().filter(|line| line["target"] != "audit").map(|line| &line["message"]).collect();
    assert!(others.len() <= 3, "{others:?}");
}

#[tokio::test]
async fn a_revocation_is_told_with_how_many_tunnels_it_closed() {
    let mut server = Server::start("json", "info").await;
    let mut rpc = TunnelClient::connect(format!("http://{}", server.addr)).await.unwrap();
    for _ in 0..2 {
        rpc.open_tunnel(bearing(server.token.expose(), OpenTunnelRequest::default())).await.unwrap();
    }
    edit::remove(&server.directory.path().join("credentials.toml"), &edit::Which::Owner("alice".to_owned())).unwrap();

    server.hear("credential revoked").await;

    let log = server.stop().await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let revoked: Vec<_> = lines.iter().filter(|line| line["event"] == "revocation").collect();
    let [revoked] = revoked[..] else { panic!("{lines:#?}") };
    assert_eq!((&revoked["owner"], &revoked["tunnels"]), (&"alice".into(), &2.into()));
    assert!(revoked["credential"].is_string(), "{revoked}");
    assert_eq!(lines.iter().filter(|line| line["event"] == "close" && line["reason"] == "revoked").count(), 2);
}

#[tokio::test]
async fn a_flood_of_refusals_is_summed_up() {
    let server = Server::start("json", "info").await;
    let mut rpc = TunnelClient::connect(format!("http://{}", server.addr)).await.unwrap();
    for _ in 0..300 {
        rpc.open_tunnel(OpenTunnelRequest::default()).await.unwrap_err();
    }
    let log = server.stop().await;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let refusals: Vec<_> = lines.filter(|line| line["event"] == "refusal").collect();
    let more: u64 = refusals.iter().filter_map(|line| line["more"].as_u64()).sum();
    let written = refusals.iter().filter(|line| line["more"].is_null()).count() as u64;
    assert_eq!(written + more, 300);
    assert!(refusals.len() <= 30, "{} lines", refusals.len());
    assert!(refusals.iter().any(|line| line["peer.network"] == "127.0.0.1/32"), "{refusals:#?}");
}

/// A request to a tunnel of its own, and what is told of it to whoever watches.
async fn request(server: &Server, path: &str) -> RequestEnded {
    let token = server.token.expose();
    let mut rpc = TunnelClient::connect(format!("http://{}", server.addr)).await.unwrap();
    let watch = WatchTunnelsRequest { requests: true, ..WatchTunnelsRequest::default() };
    let mut told = rpc.watch_tunnels(bearing(token, watch)).await.unwrap().into_inner();
    let open =
        OpenTunnelRequest { backend: "tcp".to_owned(), address: "http://".to_owned(), ..OpenTunnelRequest::default() };
    let opened: OpenTunnelResponse = rpc.open_tunnel(bearing(token, open)).await.unwrap().into_inner();
    let mut agent = TcpStream::connect(opened.uri.strip_prefix("tcp://").unwrap()).await.unwrap();
    let mut client = TcpStream::connect(&server.addr).await.unwrap();
    let host = opened.address.strip_prefix("http://").unwrap().trim_end_matches('/');
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {SECRET}\r\nconnection: close\r\n\r\n");
    client.write_all(asked.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        assert_ne!(timeout(LIMIT, agent.read_buf(&mut heard)).await.expect("a request").unwrap(), 0);
    }
    agent.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, client.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    loop {
        let event = timeout(LIMIT, told.message()).await.expect("news").unwrap().unwrap();
        if let Some(Event::RequestEnded(request)) = event.event {
            return request;
        }
    }
}

#[tokio::test]
async fn a_request_is_a_line_of_the_access_log_and_told_to_its_owner_and_counted() {
    let server = Server::start("json", "info").await;
    let told = request(&server, "/page?secret=1").await;
    assert_eq!((told.method.as_str(), told.path.as_str(), told.status), ("GET", "/page", 200));
    assert_eq!((told.end(), told.bytes_to_client), (StreamEnd::Finished, 5));
    let metrics = server.metrics().await;
    assert!(metrics.contains("tunnel_requests_total{status=\"2xx\",end=\"finished\"} 1\n"), "{metrics}");

    let log = server.stop().await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let [line] = lines.iter().filter(|line| line["target"] == "access").collect::<Vec<_>>()[..] else {
        panic!("{log}")
    };
    let texts = ["method", "host", "path", "client.addr", "end"].map(|field| line[field].as_str().unwrap());
    assert_eq!(texts, ["GET", &told.host, "/page", &told.client, "finished"]);
    assert_eq!((&line["status"], &line["bytes.to_client"], &line["level"]), (&200.into(), &5.into(), &"INFO".into()));
    for field in ["tunnel.id", "first_byte_ms", "duration_ms"] {
        assert!(!line[field].is_null(), "{line}");
    }
    assert!(!log.contains(SECRET) && !log.contains("secret=1"), "{log}");
}

#[tokio::test]
async fn a_request_is_a_short_line_where_people_read_the_log() {
    let mut server = Server::start("text", "info").await;
    let told = request(&server, "/page").await;
    let line = server.hear(" INFO access: ").await;
    assert!(line.starts_with(&format!("GET {} /page 200 5 B ", told.host)), "{line}");
}

#[tokio::test]
async fn where_requests_are_not_logged_their_owner_sees_them_still_and_with_queries_where_that_is_configured() {
    let config = "[access_log]\nenabled = false\nquery = true\n";
    let server = Server::configured(config, "text", "info").await;
    let told = request(&server, "/page?q=1").await;
    assert_eq!(told.path, "/page?q=1");
    let log = server.stop().await;
    assert!(!log.contains(" access: ") && !log.contains("/page"), "{log}");
}

/// What a client says in a header.
const SECRET: &str = "the-clients-own";

/// Nobody reads the log while calls are made until some of it is lost. Says how many lines are.
async fn lose_lines(server: &Server) -> u64 {
    server.listens.send(false).unwrap();
    let mut rpc = TunnelClient::connect(format!("http://{}", server.addr)).await.unwrap();
    loop {
        let metrics = server.metrics().await;
        let lost = metrics.lines().find_map(|line| line.strip_prefix("tunnel_log_lines_lost_total ")).unwrap();
        if lost != "0" {
            return lost.parse().unwrap();
        }
        for _ in 0..100 {
            let list = bearing(server.token.expose(), ListTunnelsRequest::default());
            timeout(LIMIT, rpc.list_tunnels(list)).await.expect("an answer").unwrap();
        }
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_slows_nothing_and_what_is_lost_is_counted_and_told() {
    let mut server = Server::start("json", "trace").await;
    let lost = lose_lines(&server).await;
    server.listens.send(true).unwrap();

    let told = server.hear("lines of this log are missing here").await;
    let (_, lines) = told.split_once("\"lines\":").unwrap_or_else(|| panic!("{told}"));
    let lines: u64 = lines.split([',', '}']).next().unwrap().parse().unwrap();
    assert!(lines >= lost, "{lines} of {lost}");
    let log = server.stop().await;
    let broken = log.lines().find(|line| line.starts_with('{') && serde_json::from_str::<Value>(line).is_err());
    assert_eq!(broken, None, "lines are lost as wholes");
    assert!(log.contains("stopping: running streams may end"), "what is said last is not lost");
}

#[tokio::test]
async fn a_server_whose_log_nobody_reads_can_be_stopped() {
    let mut server = Server::start("text", "trace").await;
    lose_lines(&server).await;
    server.terminate().await;
    let status = timeout(LIMIT, server.child.wait()).await.expect("an end in time").unwrap();
    assert!(status.success(), "{status}");
}

const LIMIT: Duration = Duration::from_secs(20);
