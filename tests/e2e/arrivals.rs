//! A connection waits in the lobby until one of its requests has been accepted: asking is not enough to stay.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval, timeout},
};
use tunnel_api::rpc::v1::ListTunnelsRequest;
use tunnel_server::Running;
use tunnel_tests::{
    client::{get, hear_out},
    credentials::{Authorized, CredentialsFile, rpc_as},
    frames::{GOAWAY, HEADERS, call, empty_message, get as front_page, greeting, kinds},
    limit::within,
    server::server_with,
};

/// In any number, they would shut everybody out.
#[tokio::test]
async fn connections_that_ask_in_vain_make_room_for_others() {
    within(async {
        let (server, mut alice) = served(|door| door.waiting = 8).await;
        let mut first = join_all(IN_VAIN.iter().map(|(_, ask)| come(&server, ask))).await;
        let _more = join_all((0..2).flat_map(|_| IN_VAIN.iter().map(|(_, ask)| come(&server, ask)))).await;
        for (socket, (what, _)) in first.iter_mut().zip(IN_VAIN) {
            let ended = timeout(Duration::from_secs(5), hear_out(socket)).await;
            assert!(ended.is_ok(), "one is still there that asked for {what}");
        }
        // Whoever was let through before they came has its connection still: a new one would be the ninth and tenth to come.
        alice.list_tunnels(ListTunnelsRequest::default()).await.expect("an answer");
        assert_eq!(get(server.addr(), "/").await.expect("an answer").0, 200);
    })
    .await;
}

#[tokio::test]
async fn connections_that_ask_in_vain_go_when_their_time_is_up_however_often_they_ask() {
    within(async {
        let (server, mut alice) = served(|door| door.idle = Duration::from_millis(500)).await;
        let stay = async |what: &str, ask: Words| {
            let since = Instant::now();
            let mut socket = come(&server, &ask).await;
            let (mut hears, mut says) = socket.split();
            let asking = async {
                let mut beat = interval(Duration::from_millis(50));
                for n in 1.. {
                    beat.tick().await;
                    if says.write_all(&ask(n)).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            let ended = async { while !matches!(hears.read(&mut [0; 4096]).await, Ok(0) | Err(_)) {} };
            tokio::select! {
                () = asking => {}
                () = ended => {}
            }
            assert!(since.elapsed() >= Duration::from_millis(450), "{what} ended after {:?}", since.elapsed());
            assert!(since.elapsed() < Duration::from_secs(10), "{what} ended after {:?}", since.elapsed());
        };
        join_all(IN_VAIN.iter().map(|(what, ask)| stay(what, *ask))).await;
        alice.list_tunnels(ListTunnelsRequest::default()).await.expect("an answer");
    })
    .await;
}

#[tokio::test]
async fn an_http_2_connection_that_is_evicted_is_told_so() {
    within(async {
        let server = server_with(|config| config.door.waiting = 1).await;
        let mut evicted = TcpStream::connect(server.addr()).await.unwrap();
        evicted.write_all(&greeting()).await.unwrap();
        // Its SETTINGS are answered: it is past its first unit.
        let mut heard = vec![0; 9];
        evicted.read_exact(&mut heard).await.unwrap();
        let _newcomer = TcpStream::connect(server.addr()).await.unwrap();
        let rest = timeout(Duration::from_secs(5), hear_out(&mut evicted)).await.expect("an end").0;
        heard.extend(rest);
        assert!(kinds(&heard).contains(&GOAWAY), "{:?}", kinds(&heard));
    })
    .await;
}

/// Where everybody is served, whoever asks is somebody.
#[tokio::test]
async fn without_credentials_every_request_is_accepted() {
    within(async {
        let server = server_with(|config| config.door.waiting = 1).await;
        let mut asked = TcpStream::connect(server.addr()).await.unwrap();
        let mut heard = Vec::new();
        for (n, words) in [begun(0, front_page(1)), front_page(3)].iter().enumerate() {
            asked.write_all(words).await.unwrap();
            while kinds(&heard).iter().filter(|kind| **kind == HEADERS).count() <= n {
                assert_ne!(asked.read_buf(&mut heard).await.unwrap(), 0, "it was closed");
            }
            join_all((0..3).map(|_| TcpStream::connect(server.addr()))).await;
        }
    })
    .await;
}

/// What is said for the nth time on a connection.
type Words = fn(u32) -> Vec<u8>;

/// What gets nobody anywhere, for the nth time on a connection.
const IN_VAIN: &[(&str, Words)] = &[
    ("tunnels, without a token", |n| begun(n, [call(2 * n + 1, LIST, &[]), empty_message(2 * n + 1)].concat())),
    ("tunnels, with a forged one", |n| {
        let forged = [("authorization", "Bearer tnl_forged")];
        begun(n, [call(2 * n + 1, LIST, &forged), empty_message(2 * n + 1)].concat())
    }),
    ("its health", |n| begun(n, [call(2 * n + 1, HEALTH, &[]), empty_message(2 * n + 1)].concat())),
    ("its page", |n| begun(n, front_page(2 * n + 1))),
    ("its page, by HTTP/1.1", |_| b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".to_vec()),
    ("a tunnel's upgrade, with a wrong ticket", |_| KNOCK.to_vec()),
];

fn begun(n: u32, words: Vec<u8>) -> Vec<u8> {
    if n == 0 { [greeting(), words].concat() } else { words }
}

/// A server with credentials, and somebody whom it has answered.
async fn served(change: impl FnOnce(&mut tunnel_server::config::Door)) -> (Running, Authorized) {
    let file = CredentialsFile::new();
    let token = file.add("alice");
    let server = server_with(|config| {
        config.credentials = Some(file.path());
        change(&mut config.door);
    })
    .await;
    let mut alice = rpc_as(&server, &token).await;
    alice.list_tunnels(ListTunnelsRequest::default()).await.expect("an answer");
    (server, alice)
}

/// Asks, and waits for an answer or an end.
async fn come(server: &Running, ask: &impl Fn(u32) -> Vec<u8>) -> TcpStream {
    let mut socket = TcpStream::connect(server.addr()).await.expect("it accepts");
    socket.write_all(&ask(0)).await.expect("it reads");
    let mut heard = Vec::new();
    while !heard.starts_with(b"HTTP/1.1") && !kinds(&heard).contains(&HEADERS) {
        if matches!(socket.read_buf(&mut heard).await, Ok(0) | Err(_)) {
            break;
        }
    }
    socket
}

const LIST: &str = "/tunnel.v1.Tunnel/ListTunnels";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const KNOCK: &[u8] = b"GET /.well-known/ptth/ HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: ptth\r\n\
                       authorization: Basic dC0xOndyb25n\r\n\r\n";
