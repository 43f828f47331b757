//! The one port puts up with anything.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};
use tunnel_api::{
    Host,
    rpc::v1::{ListTunnelsRequest, OpenTunnelRequest},
};
use tunnel_server::{Running, config::HostPort};
use tunnel_tests::{
    client::ask,
    client::{get, hear_out},
    limit::within,
    server::{rpc, server, server_with},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn silent(server: &Running, count: usize) -> Vec<TcpStream> {
    let mut silent = Vec::with_capacity(count);
    for _ in 0..count {
        silent.push(TcpStream::connect(server.addr()).await.expect("it accepts"));
    }
    silent
}

/// Sends this and gives what comes back until the connection ends, however that is.
async fn say(server: &Running, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.addr()).await.expect("it accepts");
    // The server may be done with us before we have said it all.
    let _ = socket.write_all(bytes).await;
    timeout(Duration::from_secs(20), hear_out(&mut socket)).await.expect("an end").0
}

async fn answers_within(limit: Duration, server: &Running) {
    let call = async { rpc(server).await.list_tunnels(ListTunnelsRequest::default()).await.expect("an answer") };
    timeout(limit, call).await.expect("an answer in time");
}

#[tokio::test]
async fn silent_connections_disturb_nobody() {
    within(async {
        let server = server().await;
        let _fifty = silent(&server, 50).await;
        answers_within(Duration::from_secs(1), &server).await;
    })
    .await;
}

#[tokio::test]
async fn more_silent_connections_than_may_wait_disturb_nobody() {
    within(async {
        let server = server().await;
        let mut silent = silent(&server, 1_100).await;
        answers_within(Duration::from_secs(1), &server).await;
        // They have made room, the oldest first.
        let oldest = timeout(Duration::from_secs(2), hear_out(&mut silent[0])).await;
        assert!(oldest.is_ok(), "the one that has waited longest is still there");
    })
    .await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_in_time() {
    within(async {
        let server = server_with(|config| config.door.first_unit = Duration::from_millis(300)).await;
        let start = Instant::now();
        assert_eq!(say(&server, b"").await, b"");
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(3), "{waited:?}");
    })
    .await;
}

#[tokio::test]
async fn dribbling_bytes_gains_no_time() {
    within(async {
        let server = server_with(|config| config.door.first_unit = Duration::from_millis(300)).await;
        for first in ["GET / HTTP/1.1\r\nhost: dribbled-one-byte-at-a-time\r\n\r\n".as_bytes(), PREFACE] {
            let mut socket = TcpStream::connect(server.addr()).await.unwrap();
            let (mut read, mut write) = socket.split();
            let dribble = async {
                let mut beat = interval(Duration::from_millis(50));
                for byte in first {
                    beat.tick().await;
                    if write.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            let start = Instant::now();
            let mut heard = Vec::new();
            tokio::select! {
                () = dribble => {}
                _ = read.read_to_end(&mut heard) => {}
            }
            assert!(start.elapsed() < Duration::from_millis(1_000), "{:?}", start.elapsed());
            assert_eq!(heard, b"");
        }
    })
    .await;
}

#[tokio::test]
async fn a_browser_gets_a_page_that_says_what_this_is() {
    within(async {
        let server = server().await;
        let (status, page) = get(server.addr(), "/").await.unwrap();
        assert_eq!(status, 200);
        assert!(page.contains("tunnel.v1.Tunnel"), "{page}");
        assert_eq!(get(server.addr(), "/elsewhere").await.unwrap().0, 404);
    })
    .await;
}

/// A browser sends such a request to any server for any page, this machine's own server too, and shows its client certificate.
#[tokio::test]
async fn what_a_web_page_can_send_is_no_call() {
    within(async {
        let server = server().await;
        for content_type in ["content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n", ""]
        {
            let request = format!(
                "POST /tunnel.v1.Tunnel/OpenTunnel HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{content_type}\
                 content-length: 5\r\n\r\n\0\0\0\0\0"
            );
            let answer = String::from_utf8_lossy(&say(&server, request.as_bytes()).await).into_owned();
            assert!(answer.starts_with("HTTP/1.1 415 ") && answer.contains("application/grpc"), "{answer}");
        }
        let listed = rpc(&server).await.list_tunnels(ListTunnelsRequest::default()).await.unwrap().into_inner();
        assert!(listed.tunnels.is_empty());
    })
    .await;
}

#[tokio::test]
async fn grpc_over_http_1_is_told_that_it_needs_http_2() {
    within(async {
        let server = server().await;
        let request = b"POST /tunnel.v1.Tunnel/OpenTunnel HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\n\
                        connection: close\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
        let answer = String::from_utf8_lossy(&say(&server, request).await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("HTTP/2"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn what_it_does_not_speak_is_closed_at_once() {
    within(async {
        let server = server().await;
        // The least there can be: a version, 32 random bytes, no session, one cipher suite and no compression.
        let client_hello = [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
        // Who hopes for TLS is told in TLS, by an alert, that there is none.
        let handshake_failure = [0x15, 3, 3, 0, 2, 2, 40];
        for (bytes, answer) in
            [(&client_hello[..], &handshake_failure[..]), (b"\0\0\0\0", b""), (b"\r\n\r\n", b""), (&[0xff; 100], b"")]
        {
            let start = Instant::now();
            assert_eq!(say(&server, bytes).await, answer);
            assert!(start.elapsed() < Duration::from_secs(2), "{bytes:?} is closed after {:?}", start.elapsed());
        }
        answers_within(Duration::from_secs(1), &server).await;
    })
    .await;
}

#[tokio::test]
async fn an_http_2_connection_without_a_request_goes_when_its_time_is_up() {
    within(async {
        let server = server_with(|config| config.door.idle = Duration::from_millis(300)).await;
        let mut socket = TcpStream::connect(server.addr()).await.unwrap();
        let start = Instant::now();
        socket.write_all(&[PREFACE, &EMPTY_SETTINGS].concat()).await.unwrap();
        let mut kinds = Vec::new();
        // A peer that follows the protocol: it acknowledges SETTINGS and PING.
        while let Ok((kind, flags, payload)) = read_frame(&mut socket).await {
            kinds.push(kind);
            let answer = match (kind, flags) {
                (SETTINGS, 0) => [&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0][..]].concat(),
                (PING, 0) => [&[0, 0, 8, PING, 1, 0, 0, 0, 0][..], &payload].concat(),
                _ => continue,
            };
            if socket.write_all(&answer).await.is_err() {
                break;
            }
        }
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    })
    .await;
}

/// Nobody says that a peer acknowledges our leave.
#[tokio::test]
async fn an_http_2_connection_that_falls_silent_goes_when_its_time_is_up() {
    within(async {
        let server = server_with(|config| config.door.idle = Duration::from_millis(300)).await;
        let start = Instant::now();
        let heard = say(&server, &[PREFACE, &EMPTY_SETTINGS].concat()).await;
        assert!(!heard.is_empty());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    })
    .await;
}

/// Nor where it has begun to ask, and does not go on.
#[tokio::test]
async fn an_http_1_connection_that_asks_no_more_goes_when_its_time_is_up() {
    within(async {
        let server = server_with(|config| config.door.keep_alive = Duration::from_millis(300)).await;
        for rest in ["", "GET / HTTP/1.1\r\nhost: h"] {
            let start = Instant::now();
            let heard = say(&server, format!("GET / HTTP/1.1\r\nhost: h\r\n\r\n{rest}").as_bytes()).await;
            assert!(heard.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&heard));
            assert!(start.elapsed() < Duration::from_secs(5), "{rest:?}: {:?}", start.elapsed());
        }
    })
    .await;
}

/// tonic leaves hyper's defaults out, and then there are none.
#[tokio::test]
async fn what_an_http_2_client_may_ask_for_is_said_at_once() {
    within(async {
        let server = server().await;
        let mut socket = TcpStream::connect(server.addr()).await.unwrap();
        socket.write_all(&[PREFACE, &EMPTY_SETTINGS].concat()).await.unwrap();
        let (kind, _, payload) = read_frame(&mut socket).await.unwrap();
        assert_eq!(kind, SETTINGS);
        let setting = |one: &[u8]| (one[1], u32::from_be_bytes([one[2], one[3], one[4], one[5]]));
        let settings: Vec<_> = payload.chunks(6).map(setting).collect();
        // RFC 9113, 6.5.2: streams at once, a stream's window, and a head.
        for said in [(3, 100), (4, 1024 * 1024), (6, 16 * 1024)] {
            assert!(settings.contains(&said), "{said:?} is not in {settings:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_head_that_is_too_long_is_refused() {
    within(async {
        let server = server().await;
        let head = |long: usize| format!("GET / HTTP/1.1\r\nhost: h\r\nx-long: {}\r\n\r\n", "x".repeat(long));
        let first = head(17 * 1024);
        let endless = head(17 * 1024).trim_end().to_owned();
        // hyper looks at the limit only when it reads, so it is not exact for later requests.
        let second = head(1) + &head(64 * 1024);
        for (request, answered) in [(first, 0), (endless, 0), (second, 1)] {
            let answer = String::from_utf8_lossy(&say(&server, request.as_bytes()).await).into_owned();
            assert_eq!(answer.matches("HTTP/1.1 200 ").count(), answered, "{answer}");
        }
        answers_within(Duration::from_secs(1), &server).await;
    })
    .await;
}

/// As `printf 'GET …' | nc` does. Many at once, because it was a race.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_finished_when_it_has_asked_is_answered() {
    within(async {
        let server = server().await;
        let request = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        for _ in 0..20 {
            let answers = join_all((0..50).map(|_| ask(server.addr(), request))).await;
            for answer in answers {
                let answer = answer.unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_http_2_head_that_is_too_long_is_refused() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let mut request = tonic::Request::new(ListTunnelsRequest::default());
        request.metadata_mut().insert("x-long", "x".repeat(20 * 1024).parse().unwrap());
        let refused = timeout(Duration::from_secs(5), rpc.list_tunnels(request)).await.expect("an answer");
        assert!(refused.is_err(), "{refused:?}");
        answers_within(Duration::from_secs(1), &server).await;
    })
    .await;
}

async fn read_frame(socket: &mut TcpStream) -> std::io::Result<(u8, u8, Vec<u8>)> {
    let mut header = [0; 9];
    socket.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).await?;
    Ok((header[3], header[4], payload))
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A header counts for something only where we have said whose word it is.
#[tokio::test]
async fn a_proxy_of_ours_says_who_calls_and_nobody_else_does() {
    within(async {
        for (trusted_proxies, pin) in [(vec!["127.0.0.0/8".parse().unwrap()], "192.0.2.9/32"), (vec![], "127.0.0.1/32")]
        {
            let server = server_with(|config| {
                config.insecure = true;
                config.trusted_proxies = trusted_proxies;
                let host: Host = "tunnels.example".parse().unwrap();
                config.advertise.agents = Some(HostPort { host: host.clone(), port: None });
                config.advertise.clients = Some(host);
            })
            .await;
            let mut request = tonic::Request::new(OpenTunnelRequest::default());
            request.metadata_mut().insert("x-forwarded-for", "198.51.100.1, 192.0.2.9".parse().unwrap());
            let opened = rpc(&server).await.open_tunnel(request).await.unwrap().into_inner();
            assert_eq!(opened.dial_from, [pin]);
        }
    })
    .await;
}
