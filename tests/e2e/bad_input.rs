//! What bad input gets: a code by what the caller should do, a message that says what, details for programs.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, Status, body::Body, transport::Channel};
use tonic_types::StatusExt;
use tunnel_api::rpc::v1::{
    CloseTunnelRequest, GetTunnelAddressRequest, ListTunnelsRequest, OpenTunnelRequest, WatchTunnelsRequest,
    client::TunnelClient, close_tunnel_request::Tunnel, watch_tunnels_response::Event,
};
use tunnel_backends::ports::PortRange;
use tunnel_tests::{
    client::at,
    limit::within,
    server::{channel, pool, ports, rpc, server, server_with},
};

use crate::rpc::{next, open};

async fn refused(rpc: &mut TunnelClient<Channel>, request: OpenTunnelRequest) -> Status {
    let what = format!("{request:?}");
    rpc.open_tunnel(request).await.err().unwrap_or_else(|| panic!("not refused: {what}"))
}

async fn look_up(rpc: &mut TunnelClient<Channel>, uri: &str) -> Status {
    let request = GetTunnelAddressRequest { uri: uri.to_owned() };
    rpc.get_tunnel_address(request).await.err().unwrap_or_else(|| panic!("found {uri}"))
}

/// The reason in a refusal's details.
fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "tunnel.v1", "{status:?}");
    info.reason.clone()
}

/// The fields to blame.
fn blamed(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn a_uri_that_does_not_parse_is_an_invalid_argument_and_is_not_echoed() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let long = format!("tcp://sesame:1/{}", "x".repeat(3_000));
        for uri in
            ["", "sesame", "tcp:sesame", "tcp://sesame", "tcp://sesame:0", "tcp://sesame:99999", "//sesame:1", &long]
        {
            let looked_up = look_up(&mut rpc, uri).await;
            let tunnel = Some(Tunnel::Uri(uri.to_owned()));
            let closed = rpc.close_tunnel(CloseTunnelRequest { tunnel }).await.unwrap_err();
            for refusal in [looked_up, closed] {
                assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID"), "{uri}");
                assert_eq!(blamed(&refusal), ["uri"], "{uri}");
                assert!(!format!("{refusal:?}").contains("sesame"), "{refusal:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn unknown_closed_expired_and_forged_uris_get_the_same_answer() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;

        let closed = open(&mut rpc).await;
        let tunnel = Some(Tunnel::Uri(closed.uri.clone()));
        rpc.close_tunnel(CloseTunnelRequest { tunnel }).await.unwrap();

        let mut events = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
        let dial_within = Some(Duration::from_millis(50).try_into().unwrap());
        let expired =
            rpc.open_tunnel(OpenTunnelRequest { dial_within, ..Default::default() }).await.unwrap().into_inner();
        while !matches!(next(&mut events).await, Event::Closed(_)) {}

        let here = open(&mut rpc).await;
        let port = at(&here.uri).port();
        let forged = [
            format!("tcp://127.0.0.1:{port}/x"),
            format!("tcp://u:p@127.0.0.1:{port}"),
            format!("tcp://localhost:{port}"),
            format!("ptth://127.0.0.1:{port}"),
            here.address.clone(),
        ];
        let unknown = ["tcp://127.0.0.1:1".to_owned(), "tcp://192.0.2.1:9".to_owned()];

        let mut answers = Vec::new();
        for uri in [closed.uri, expired.uri].iter().chain(&forged).chain(&unknown) {
            let status = look_up(&mut rpc, uri).await;
            assert_eq!(reason(&status), "NOT_FOUND", "{uri}");
            answers.push((status.code(), status.message().to_owned(), status.details().to_vec()));
        }
        assert_eq!(answers[0].0, Code::NotFound);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        rpc.get_tunnel_address(GetTunnelAddressRequest { uri: here.uri }).await.expect("the one that is open");
    })
    .await;
}

#[tokio::test]
async fn exhausted_ports_are_said_at_once_with_the_range() {
    within(async {
        for exhausted in ["public", "dial_in"] {
            let few = ports(2);
            let server = server_with(|config| {
                let range = PortRange::Between(few.clone());
                if exhausted == "public" { config.ports.public = range } else { config.ports.dial_in = range }
            })
            .await;
            let mut rpc = rpc(&server).await;
            let first = open(&mut rpc).await;
            let _second = open(&mut rpc).await;

            let start = Instant::now();
            let refusal = refused(&mut rpc, OpenTunnelRequest::default()).await;
            assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
            assert_eq!(refusal.code(), Code::ResourceExhausted);
            assert_eq!(reason(&refusal), "LIMIT_REACHED");
            let range = format!("{}-{}", few.start(), few.end());
            assert!(refusal.message().contains(&range), "{} lacks {range}", refusal.message());

            let tunnel = Some(Tunnel::Uri(first.uri));
            rpc.close_tunnel(CloseTunnelRequest { tunnel }).await.unwrap();
            open(&mut rpc).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_public_port_that_is_taken_already_exists() {
    within(async {
        let server = server_with(|config| config.ports.public = pool(3)).await;
        let mut rpc = rpc(&server).await;
        let held = open(&mut rpc).await.address;
        let free = at(&held).port() + 1;
        let somebody_elses = std::net::TcpListener::bind(("127.0.0.1", free)).unwrap();

        for port in [at(&held).port(), somebody_elses.local_addr().unwrap().port()] {
            let address = format!("tcp://:{port}");
            let refusal = refused(&mut rpc, OpenTunnelRequest { address, ..Default::default() }).await;
            assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::AlreadyExists, "ADDRESS_TAKEN"));
            assert!(refusal.message().contains(&port.to_string()), "{}", refusal.message());
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_outside_the_pool_is_not_handed_out_unless_it_is_an_extra_one() {
    within(async {
        let (few, extra) = (ports(2), *ports(1).start());
        let server = server_with(|config| {
            config.ports.public = PortRange::Between(few.clone());
            config.ports.extra_ports = [extra].into();
        })
        .await;
        let mut rpc = rpc(&server).await;
        let refusal =
            refused(&mut rpc, OpenTunnelRequest { address: "tcp://:22".to_owned(), ..Default::default() }).await;
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::PermissionDenied, "NOT_ALLOWED"));
        let range = format!("{}-{}", few.start(), few.end());
        for part in ["22", &range, "extra_ports"] {
            assert!(refusal.message().contains(part), "{} lacks {part}", refusal.message());
        }

        let address = format!("tcp://:{extra}");
        let opened = rpc.open_tunnel(OpenTunnelRequest { address, ..Default::default() }).await.unwrap().into_inner();
        assert_eq!(at(&opened.address).port(), extra);
    })
    .await;
}

#[tokio::test]
async fn a_field_that_cannot_be_honoured_is_named() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let default = OpenTunnelRequest::default;
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let labels = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new())).collect();
        // On the heap: an array of them would make this future one of 17 KiB.
        let cases = vec![
            ("backend", OpenTunnelRequest { backend: "ssh".to_owned(), ..default() }),
            ("address", OpenTunnelRequest { address: "gopher://".to_owned(), ..default() }),
            ("address", OpenTunnelRequest { address: "21000".to_owned(), ..default() }),
            ("address", OpenTunnelRequest { address: "tcp://192.0.2.7".to_owned(), ..default() }),
            ("name", OpenTunnelRequest { name: "two words".to_owned(), ..default() }),
            ("name", OpenTunnelRequest { name: "n".repeat(129), ..default() }),
            ("connections", OpenTunnelRequest { connections: 1_000_000, ..default() }),
            ("dial_within", OpenTunnelRequest { dial_within: duration(0, 0), ..default() }),
            ("dial_within", OpenTunnelRequest { dial_within: duration(-1, 0), ..default() }),
            ("dial_within", OpenTunnelRequest { dial_within: duration(10_000_000, 0), ..default() }),
            ("dial_from", OpenTunnelRequest { dial_from: vec!["192.0.2.0/33".to_owned()], ..default() }),
            ("dial_from", OpenTunnelRequest { dial_from: vec!["10.0.0.0/8".to_owned(); 65], ..default() }),
            ("caller_address", OpenTunnelRequest { caller_address: "here".to_owned(), ..default() }),
            ("labels", OpenTunnelRequest { labels: labels(33), ..default() }),
            ("labels", OpenTunnelRequest { labels: [("k".repeat(65), String::new())].into(), ..default() }),
            ("labels", OpenTunnelRequest { labels: [("k".to_owned(), "v".repeat(257))].into(), ..default() }),
        ];
        for (field, request) in cases {
            let what = format!("{request:?}");
            let refusal = refused(&mut rpc, request).await;
            assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID"), "{what}");
            assert_eq!(blamed(&refusal), [field], "{what}");
            assert!(refusal.message().starts_with(field), "{what}: {}", refusal.message());
        }
    })
    .await;
}

#[tokio::test]
async fn the_other_calls_name_the_field_too() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let nothing = rpc.close_tunnel(CloseTunnelRequest { tunnel: None }).await.unwrap_err();
        assert_eq!((nothing.code(), blamed(&nothing)), (Code::InvalidArgument, vec!["tunnel".to_owned()]));
        let tunnel = Some(Tunnel::Name("two words".to_owned()));
        let name = rpc.close_tunnel(CloseTunnelRequest { tunnel }).await.unwrap_err();
        assert_eq!((name.code(), blamed(&name)), (Code::InvalidArgument, vec!["name".to_owned()]));
        let page_token = "no token".to_owned();
        let page = rpc.list_tunnels(ListTunnelsRequest { page_size: 1, page_token }).await.unwrap_err();
        assert_eq!((page.code(), blamed(&page)), (Code::InvalidArgument, vec!["page_token".to_owned()]));
        let id = "no id".to_owned();
        let watch = rpc.watch_tunnels(WatchTunnelsRequest { id, ..Default::default() }).await.unwrap_err();
        assert_eq!((watch.code(), blamed(&watch)), (Code::InvalidArgument, vec!["id".to_owned()]));
        for refusal in [nothing, name, page, watch] {
            reason(&refusal);
        }
    })
    .await;
}

/// What the server makes of this body of a gRPC request.
async fn send_raw(channel: &mut Channel, body: Vec<u8>) -> Code {
    let request = http::Request::post("/tunnel.v1.Tunnel/OpenTunnel")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(body.into())))
        .expect("a request");
    futures_util::future::poll_fn(|cx| tower::Service::poll_ready(channel, cx)).await.expect("a connection");
    let answer = tower::Service::call(channel, request).await.expect("an answer");
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status.code();
    }
    let answer = answer.into_body().collect().await.expect("its end");
    answer.trailers().and_then(Status::from_header_map).expect("a status").code()
}

#[tokio::test]
async fn malformed_and_oversized_messages_are_refused_and_the_server_lives() {
    within(async {
        let server = server().await;
        let mut channel = channel(&server).await;
        let framed = |length: u32, payload: &[u8]| [&[0][..], &length.to_be_bytes(), payload].concat();
        let cases = [
            ("garbage", framed(4, &[0xff; 4])),
            ("a field that is longer than the message", framed(2, &[0x0a, 0x7f])),
            ("invalid UTF-8", framed(3, &[0x0a, 1, 0xff])),
            ("too little", framed(10, &[0x0a])),
            ("nothing", Vec::new()),
            ("half a frame header", vec![0, 0]),
            ("an unknown compression", [&[9][..], &[0; 4]].concat()),
            ("compressed without saying how", [&[1][..], &[0; 4]].concat()),
            ("a claim of 4 GiB", framed(u32::MAX, &[0; 100])),
            ("more than 64 KiB", framed(70_000, &[0; 70_000])),
        ];
        for (what, body) in cases {
            let code = timeout(Duration::from_secs(5), send_raw(&mut channel, body)).await.expect(what);
            assert!(!matches!(code, Code::Ok | Code::Unknown), "{what} gets {code:?}");
        }
        let mut rpc = rpc(&server).await;
        let name = "n".repeat(70_000);
        let refusal = refused(&mut rpc, OpenTunnelRequest { name, ..Default::default() }).await;
        assert_eq!(refusal.code(), Code::OutOfRange);
        assert_eq!(open(&mut rpc).await.connections, 1);
    })
    .await;
}

#[tokio::test]
async fn silent_clients_on_a_tunnels_port_disturb_nobody() {
    within(async {
        let server = server().await;
        let origin = tunnel_tests::origin::Origin::echo().await.unwrap();
        let mut tunnel = tunnel_tests::server::listen(&server).await;
        let public = tunnel.address().authority().parse().unwrap();
        let target = origin.addr().to_string();
        let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(TcpStream::connect(public).await.unwrap());
        }
        let answer = timeout(Duration::from_secs(5), tunnel_tests::client::ask(public, b"hello")).await;
        assert_eq!(answer.expect("an answer").unwrap(), b"hello");
        forwarding.abort();
    })
    .await;
}

#[tokio::test]
async fn silent_dial_ins_from_elsewhere_are_reset_and_disturb_nobody() {
    within(async {
        // Given a tunnel that may be dialled from one address of this host only.
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let dial_from = vec!["127.0.0.2".to_owned()];
        let opened = rpc.open_tunnel(OpenTunnelRequest { dial_from, ..Default::default() }).await.unwrap().into_inner();
        // When others dial in and say nothing.
        for _ in 0..50 {
            let mut stranger = TcpStream::connect(at(&opened.uri)).await.unwrap();
            let (heard, ended) = tunnel_tests::client::hear_out(&mut stranger).await;
            assert_eq!((heard, ended), (vec![], tunnel_tests::client::Ended::Reset));
        }
        // Then the agent still can.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut agent = socket.connect(at(&opened.uri)).await.unwrap();
        let client = tokio::spawn(tunnel_tests::client::get(at(&opened.address), "/"));
        tunnel_tests::origin::answer_http(&mut agent, "served").await.unwrap();
        assert_eq!(client.await.unwrap().unwrap(), (200, "served".to_owned()));
        let mut events = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
        match next(&mut events).await {
            Event::Present(info) => assert_eq!(info.strangers, 50),
            // The tunnel was for one connection, and that may have ended.
            event => assert!(matches!(event, Event::Ready(_) | Event::Closed(_)), "{event:?}"),
        }
    })
    .await;
}
