//! Floods of every kind against the one port, all at once, beside a good client: they cost next to nothing, and it hardly
//! notices. `FLOODS=60` makes them last so many seconds each.

use std::{net::SocketAddr, path::PathBuf, thread, time::Duration};

use axum::Router;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{
    FutureExt,
    future::{join, join_all},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, sink, split},
    net::TcpStream,
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tunnel_api::{
    rpc::v1::{OpenTunnelRequest, OpenTunnelResponse, client::TunnelClient},
    tls::ClientTls,
};
use tunnel_tests::{
    beside::GoodClient,
    certificates::Certificates,
    credentials::CredentialsFile,
    frames::{
        CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
        call, empty_message, frame, get, get_from, greeting, post_to,
    },
    limit::within,
    process::ServerProcess,
    server::{channel, server},
    web::{Way, serve},
};

use crate::{SERVER, alone};

/// Whoever has no credentials gets next to nothing, by whichever way.
#[tokio::test]
async fn floods_of_every_kind_by_strangers_cost_next_to_nothing() {
    let _alone = alone().await;
    let place = Place::new();
    let token = place.credentials.add("alice");
    let server =
        ServerProcess::start(SERVER, &place.config(&format!("credentials = '{}'", place.credentials.path().display())))
            .await;
    let used = suffer(&server, token.expose(), &[Transport::Plain, place.tls()]).await;
    assert!(used < 0.5, "floods cost {used:.2} processors");
}

/// Whoever is served may ask for more, and does not get all there is.
#[tokio::test]
async fn floods_of_every_kind_by_those_who_are_served_disturb_nobody() {
    let _alone = alone().await;
    let place = Place::new();
    let server = ServerProcess::start(SERVER, &place.config("")).await;
    let used = suffer(&server, "anybody", &[Transport::Plain]).await;
    println!("floods cost {used:.2} processors");
}

/// Whoever may open a tunnel may also let loose an agent for it.
#[tokio::test]
async fn floods_by_agents_disturb_nobody() {
    let _alone = alone().await;
    let place = Place::new();
    let server = ServerProcess::start(SERVER, &place.config("")).await;
    let mut good = GoodClient::come(server.addr(), "anybody").await;
    let ((), before) = good.beside(sleep(BEFORE)).await;
    let mut rpc = TunnelClient::connect(server.url()).await.expect("a connection");
    let request = OpenTunnelRequest { backend: "mux".to_owned(), ..OpenTunnelRequest::default() };
    let opened = rpc.open_tunnel(request).await.expect("a tunnel").into_inner();

    let (end, ended) = oneshot::channel();
    let knock = knock_at(&opened.uri);
    let addr = server.addr();
    let floods = thread::spawn(move || {
        let _ = end.send(all_agents(addr, &knock));
    });
    let ((said, used), beside) = good.beside(server.watch(ended)).await;
    floods.join().expect("floods end");
    println!("before: {before}\nbeside: {beside}{used:?}; {:?} KiB", said.expect("floods end"));
    assert!(beside.p99() < before.p99() * 3 + Duration::from_secs(1), "before: {before}; beside: {beside}");
}

/// Whoever may look at a tunnel's pages, which is everybody.
#[tokio::test]
async fn floods_of_every_kind_by_web_clients_disturb_nobody() {
    let _alone = alone().await;
    let place = Place::new();
    let server = ServerProcess::start(SERVER, &place.config("")).await;
    let mut rpc = TunnelClient::connect(server.url()).await.expect("a connection");
    let opened = rpc.open_tunnel(Way::Requests.request("http://blog")).await.expect("a tunnel").into_inner();
    let addr = server.addr();
    let used = suffer_from(&server, "anybody", move || web_floods(addr, opened)).await;
    println!("floods cost {used:.2} processors");
}

/// With the agent, which is kept as busy as they are.
#[tokio::main(flavor = "current_thread")]
async fn web_floods(addr: SocketAddr, opened: OpenTunnelResponse) -> Vec<String> {
    let _site = serve(Way::Requests, opened, Router::new().fallback(async || "hello")).await;
    join_all(WEB_KINDS.iter().map(|kind| flood(*kind, &Transport::Plain, addr, duration()))).await
}

/// The request by which an agent comes in.
fn knock_at(uri: &str) -> Vec<u8> {
    let (credentials, _) = uri.strip_prefix("ptth://").and_then(|rest| rest.split_once('@')).expect("a PTTH URI");
    let knock = String::from_utf8(KNOCK.to_vec()).expect("text");
    knock.replace("dC0xOndyb25n", &BASE64_STANDARD.encode(credentials)).into_bytes()
}

/// Four of each kind; gives what was said.
#[tokio::main(flavor = "current_thread")]
async fn all_agents(addr: SocketAddr, knock: &[u8]) -> Vec<usize> {
    let end = Instant::now() + duration();
    let floods = [AGENTS; 4].into_iter().flatten().map(async |go_on| {
        let mut said = 0;
        let _ = timeout_at(end, flood_as_agent(addr, knock, *go_on, &mut said)).await;
        said / 1024
    });
    join_all(floods).await
}

async fn flood_as_agent(addr: SocketAddr, knock: &[u8], go_on: Words, said: &mut usize) -> std::io::Result<()> {
    let (mut hears, mut says) = TcpStream::connect(addr).await?.into_split();
    says.write_all(&[knock, &frame(SETTINGS, 0, 0, b"")].concat()).await?;
    let mut nowhere = sink();
    let hear = copy(&mut hears, &mut nowhere).map(drop);
    let say = async {
        // Always the same, and so no work to say.
        let words = go_on(0).repeat(10);
        while says.write_all(&words).await.is_ok() {
            *said += words.len();
            tokio::task::yield_now().await;
        }
    };
    join(hear, say).await;
    Ok(())
}

/// The nth lot.
type Words = fn(u32) -> Vec<u8>;

/// What an agent's session bears.
const AGENTS: &[Words] = &[
    |_| many(|_| frame(PING, 0, 0, &[7; 8])),
    |_| many(|_| frame(SETTINGS, 0, 0, b"")),
    |_| many(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    |_| many(|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
    |_| many(|_| frame(0xbe, 0, 0, b"")),
];

/// tonic would take 4 MiB, a hundred at once.
#[tokio::test]
async fn a_long_message_to_health_is_refused() {
    let _alone = alone().await;
    within(async {
        let server = server().await;
        let mut health = HealthClient::new(channel(&server).await);
        let service = "s".repeat(2048);
        let refusal = health.check(HealthCheckRequest { service }).await.expect_err("a refusal");
        assert_eq!(refusal.code(), Code::OutOfRange, "{refusal:?}");
    })
    .await;
}

/// Gives how many processors it cost.
async fn suffer(server: &ServerProcess, token: &str, transports: &[Transport]) -> f64 {
    let (addr, transports) = (server.addr(), transports.to_vec());
    suffer_from(server, token, move || all_floods(addr, &transports)).await
}

/// The same of these floods.
async fn suffer_from(server: &ServerProcess, token: &str, all: impl FnOnce() -> Vec<String> + Send + 'static) -> f64 {
    let mut good = GoodClient::come(server.addr(), token).await;
    let (((), quiet), before) = good.beside(server.watch(sleep(BEFORE))).await;

    let (end, ended) = oneshot::channel();
    // In a thread of their own, so that they take no turns from the good client.
    let floods = thread::spawn(move || {
        // It matters to nobody if the test has failed meanwhile.
        let _ = end.send(all());
    });
    let ((outcomes, used), beside) = good.beside(server.watch(ended)).await;
    floods.join().expect("floods end");
    let outcomes = outcomes.expect("floods end");
    for outcome in &outcomes {
        println!("{outcome}");
    }
    println!("before: {before}{quiet:?}\nbeside: {beside}{used:?}");

    assert!(beside.p99() < before.p99() * 3 + Duration::from_secs(1), "before: {before}; beside: {beside}");
    assert!(used.most_memory < quiet.most_memory + MEMORY, "{} floods: {used:?}, {quiet:?} without", outcomes.len());
    let ((), after) = good.beside(sleep(BEFORE)).await;
    assert!(after.p99() < before.p99() * 3 + Duration::from_millis(200), "before: {before}; after: {after}");
    used.processors - quiet.processors
}

/// Every kind by each of these, all at once.
#[tokio::main(flavor = "current_thread")]
async fn all_floods(addr: SocketAddr, transports: &[Transport]) -> Vec<String> {
    let pairs = KINDS.iter().flat_map(|kind| transports.iter().map(move |transport| (kind, transport)));
    join_all(pairs.map(|(kind, transport)| flood(*kind, transport, addr, duration()))).await
}

/// Where a server finds its files.
struct Place {
    certificates: Certificates,
    credentials: CredentialsFile,
}

impl Place {
    fn new() -> Self {
        Self { certificates: Certificates::new(), credentials: CredentialsFile::new() }
    }

    fn config(&self, more: &str) -> PathBuf {
        let path = self.certificates.path("config.toml");
        std::fs::write(&path, format!("{more}\n{CONFIG}")).expect("a file");
        path
    }

    fn tls(&self) -> Transport {
        Transport::Tls(ClientTls::new(self.certificates.trust(), None))
    }
}

const CONFIG: &str = "listen = '127.0.0.1:0'\n[ports]\npublic = 0\ndial_in = 0\n[admin]\nlisten = 'off'\n\
                      [tls]\ncertificate = 'server.pem'\nkey = 'server.key.pem'\n[backends.tcp.tcp]\n[backends.mux.mux]\n";

/// One way of keeping a server busy.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    /// What comes first on a connection.
    begin: fn() -> Vec<u8>,
    /// And then, one after another.
    go_on: Words,
    /// Between them.
    pause: Duration,
    reads: bool,
}

impl Kind {
    const fn new(name: &'static str, go_on: Words) -> Self {
        Self { name, begin: greeting, go_on, pause: Duration::ZERO, reads: true }
    }

    const fn beginning_with(self, begin: fn() -> Vec<u8>) -> Self {
        Self { begin, ..self }
    }

    const fn slowly(self) -> Self {
        Self { pause: Duration::from_millis(50), ..self }
    }

    const fn without_reading(self) -> Self {
        Self { reads: false, ..self }
    }
}

const KINDS: &[Kind] = &[
    Kind::new("requests that are reset at once", |n| {
        many(|i| [list(stream(n, i)), frame(RST_STREAM, 0, stream(n, i), &[0, 0, 0, 8])].concat())
    }),
    Kind::new("calls that are reset at once", |n| {
        many(|i| {
            let stream = stream(n, i);
            [list(stream), empty_message(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
    }),
    Kind::new("calls as fast as they go", |n| many(|i| [list(stream(n, i)), empty_message(stream(n, i))].concat())),
    Kind::new("calls whose answers nobody reads", |n| {
        many(|i| [list(stream(n, i)), empty_message(stream(n, i))].concat())
    })
    .without_reading(),
    Kind::new("front pages", |n| many(|i| get(stream(n, i)))),
    Kind::new("health checks", |n| many(|i| [call(stream(n, i), HEALTH, &[]), empty_message(stream(n, i))].concat())),
    Kind::new("health checks with endless messages", |_| frame(DATA, 0, 1, &[b'x'; 16 * 1024])).beginning_with(|| {
        let claim = [&[0][..], &(4_u32 << 20).to_be_bytes()].concat();
        [greeting(), call(1, HEALTH, &[]), frame(DATA, 0, 1, &claim)].concat()
    }),
    Kind::new("SETTINGS", |_| many(|_| frame(SETTINGS, 0, 0, b""))),
    Kind::new("SETTINGS that change the windows", |n| {
        many(|i| frame(SETTINGS, 0, 0, &[&[0, 4][..], &(1 + n + i).to_be_bytes()].concat()))
    })
    .beginning_with(hundred_calls),
    Kind::new("PING", |_| many(|_| frame(PING, 0, 0, &[7; 8]))),
    Kind::new("PING whose answers nobody reads", |_| many(|_| frame(PING, 0, 0, &[7; 8]))).without_reading(),
    Kind::new("PRIORITY", |n| many(|i| frame(PRIORITY, 0, stream(n, i), &[0, 0, 0, 0, 1]))),
    Kind::new("WINDOW_UPDATE", |_| many(|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))).beginning_with(hundred_calls),
    Kind::new("empty DATA", |_| many(|_| frame(DATA, 0, 1, b""))).beginning_with(hundred_calls),
    Kind::new("padding", |_| many(|_| frame(DATA, 8, 1, &[[200].as_slice(), &[0; 200]].concat())))
        .beginning_with(hundred_calls),
    Kind::new("GOAWAY", |_| many(|_| frame(GOAWAY, 0, 0, &[0; 8]))),
    Kind::new("frames of no known kind", |_| many(|_| frame(0xbe, 0, 0, b""))),
    Kind::new("CONTINUATION without an end", |_| many(|_| frame(CONTINUATION, 0, 1, &block(&[("x-more", "of it")]))))
        .beginning_with(|| [greeting(), frame(HEADERS, 0, 1, &block(&[(":method", "POST")]))].concat()),
    Kind::new("empty CONTINUATION", |_| many(|_| frame(CONTINUATION, 0, 1, b"")))
        .beginning_with(|| [greeting(), frame(HEADERS, 0, 1, &block(&[(":method", "POST")]))].concat()),
    Kind::new("headers that unpack to many times their size", |n| bomb(stream(n, 0))),
    Kind::new("calls that are never finished", |n| list(stream(n, 0))).beginning_with(hundred_calls).slowly(),
    Kind::new("slow bodies", |_| frame(DATA, 0, 1, b"x")).beginning_with(hundred_calls).slowly(),
    Kind::new("pages by HTTP/1.1", |_| many(|_| b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".to_vec()))
        .beginning_with(Vec::new),
    Kind::new("pages by HTTP/1.1 that nobody reads", |_| many(|_| b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".to_vec()))
        .beginning_with(Vec::new)
        .without_reading(),
    Kind::new("agents with wrong tickets", |_| many(|_| KNOCK.to_vec())).beginning_with(Vec::new),
    Kind::new("a slow body by HTTP/1.1", |_| b"1\r\nx\r\n".to_vec())
        .beginning_with(|| b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())
        .slowly(),
];

/// Those of web clients, after a request that was answered. (As fast as they go is what they may, so that is none.)
const WEB_KINDS: &[Kind] = &[
    Kind::new("requests that are reset at once", |n| {
        many(|i| [get_from(BLOG, stream(n, i)), frame(RST_STREAM, 0, stream(n, i), &[0, 0, 0, 8])].concat())
    })
    .beginning_with(visit),
    Kind::new("requests whose answers nobody reads", |n| many(|i| get_from(BLOG, stream(n, i))))
        .beginning_with(visit)
        .without_reading(),
    Kind::new("SETTINGS", |_| many(|_| frame(SETTINGS, 0, 0, b""))).beginning_with(visit),
    Kind::new("SETTINGS that change the windows", |n| {
        many(|i| frame(SETTINGS, 0, 0, &[&[0, 4][..], &(1 + n + i).to_be_bytes()].concat()))
    })
    .beginning_with(hundred_uploads),
    Kind::new("PING", |_| many(|_| frame(PING, 0, 0, &[7; 8]))).beginning_with(visit),
    Kind::new("PING whose answers nobody reads", |_| many(|_| frame(PING, 0, 0, &[7; 8])))
        .beginning_with(visit)
        .without_reading(),
    Kind::new("PRIORITY", |n| many(|i| frame(PRIORITY, 0, stream(n, i), &[0, 0, 0, 0, 1]))).beginning_with(visit),
    Kind::new("WINDOW_UPDATE", |_| many(|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))).beginning_with(hundred_uploads),
    Kind::new("empty DATA", |_| many(|_| frame(DATA, 0, 1, b""))).beginning_with(hundred_uploads),
    Kind::new("padding", |_| many(|_| frame(DATA, 8, 1, &[[200].as_slice(), &[0; 200]].concat())))
        .beginning_with(hundred_uploads),
    Kind::new("GOAWAY", |_| many(|_| frame(GOAWAY, 0, 0, &[0; 8]))).beginning_with(visit),
    Kind::new("frames of no known kind", |_| many(|_| frame(0xbe, 0, 0, b""))).beginning_with(visit),
    Kind::new("CONTINUATION without an end", |_| many(|_| frame(CONTINUATION, 0, 3, &block(&[("x-more", "of it")]))))
        .beginning_with(|| [visit(), frame(HEADERS, 0, 3, &block(&[(":method", "POST")]))].concat()),
    Kind::new("uploads that are never finished", |n| post_to(BLOG, stream(n, 0)))
        .beginning_with(hundred_uploads)
        .slowly(),
    Kind::new("slow uploads", |_| frame(DATA, 0, 1, b"x")).beginning_with(hundred_uploads).slowly(),
    Kind::new("pages by HTTP/1.1 that nobody reads", |_| {
        many(|_| format!("GET / HTTP/1.1\r\nhost: {BLOG}\r\n\r\n").into_bytes())
    })
    .beginning_with(Vec::new)
    .without_reading(),
];

/// As `http://blog` is called without a domain.
const BLOG: &str = "blog.localhost";

fn visit() -> Vec<u8> {
    [greeting(), get_from(BLOG, 1)].concat()
}

fn hundred_uploads() -> Vec<u8> {
    let uploads = (0..100).flat_map(|i| post_to(BLOG, 2 * i + 1));
    greeting().into_iter().chain(uploads).collect()
}

const KNOCK: &[u8] = b"GET /.well-known/ptth/ HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: ptth\r\n\
                       authorization: Basic dC0xOndyb25n\r\n\r\n";

fn list(stream: u32) -> Vec<u8> {
    call(stream, "/tunnel.v1.Tunnel/ListTunnels", &[])
}

fn many(one: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..MANY).flat_map(one).collect()
}

/// The `i`th stream of the `n`th lot.
fn stream(n: u32, i: u32) -> u32 {
    2 * (n * MANY + i) + 201
}

/// Without their messages.
fn hundred_calls() -> Vec<u8> {
    let calls = (0..100).flat_map(|i| list(2 * i + 1));
    greeting().into_iter().chain(calls).collect()
}

/// A field of 4,000 bytes goes into the table, and is then named by a byte, again and again (RFC 7541, 6.2.1 and 6.1).
fn bomb(stream: u32) -> Vec<u8> {
    let mut long = block(&[("x-long", &*"x".repeat(3900))]);
    long[0] = 0x40;
    let named_again = [0x80 | 62; 12_000];
    frame(HEADERS, END_HEADERS, stream, &[&block(&[(":method", "POST")])[..], &long, &named_again].concat())
}

/// Keeps at it, on new connections when it is cut off.
async fn flood(kind: Kind, transport: &Transport, addr: SocketAddr, lasting: Duration) -> String {
    let end = Instant::now() + lasting;
    let (mut connections, mut said) = (0, 0);
    while Instant::now() < end {
        connections += 1;
        let _ = timeout_at(end, flood_once(kind, transport, addr, &mut said)).await;
        // What counts here is what it says; connecting costs us as much as it does it.
        sleep(Duration::from_millis(100)).await;
    }
    format!("{} ({transport}): {connections} connections, {} KiB", kind.name, said / 1024)
}

/// Until it is cut off.
async fn flood_once(kind: Kind, transport: &Transport, addr: SocketAddr, said: &mut usize) -> std::io::Result<()> {
    let (mut hears, mut says) = split(transport.connect(addr).await?);
    let hear = async {
        if kind.reads {
            let _ = copy(&mut hears, &mut sink()).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let say = async {
        says.write_all(&(kind.begin)()).await?;
        for n in 0.. {
            let words = (kind.go_on)(n);
            says.write_all(&words).await?;
            says.flush().await?;
            // All of them share a thread.
            tokio::task::yield_now().await;
            *said += words.len();
            sleep(kind.pause).await;
        }
        Ok(())
    };
    tokio::select! {
        () = hear => Ok(()),
        ended = say => ended,
    }
}

#[derive(Clone)]
enum Transport {
    Plain,
    Tls(ClientTls),
}

impl Transport {
    async fn connect(&self, addr: SocketAddr) -> std::io::Result<Box<dyn Io>> {
        let socket = TcpStream::connect(addr).await?;
        match self {
            Self::Plain => Ok(Box::new(socket)),
            Self::Tls(tls) => {
                let host = "127.0.0.1".parse().expect("a host");
                let stream = tls.connect(socket, &host, b"h2").await;
                Ok(Box::new(stream.map_err(std::io::Error::other)?))
            }
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Tls(_) => "TLS",
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

fn duration() -> Duration {
    let seconds = std::env::var("FLOODS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(Duration::from_secs(2), Duration::from_secs)
}

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const BEFORE: Duration = Duration::from_secs(1);
const MANY: u32 = 100;

/// What all of them together may cost, in bytes: half a megabyte each.
const MEMORY: u64 = 32 << 20;
