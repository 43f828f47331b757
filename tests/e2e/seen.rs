//! How a server does can be seen, by whoever may, and whatever others do.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tonic::Request;
use tunnel_agent::TunnelListener;
use tunnel_api::{
    Caller, OpenTunnel,
    rpc::v1::{GetTunnelAddressRequest, OpenTunnelRequest},
};
use tunnel_server::{Running, config::AdminListen};
use tunnel_tests::{
    client::{Ended, ask, at, get, hear_out},
    credentials::CredentialsFile,
    limit::within,
    metrics::{Scrape, admin, scrape},
    origin::Origin,
    server::{listen_on, rpc, server_with, tcp},
};

each_backend! {
    what_streams_do_is_counted_and_when_they_are_gone_nothing_is_left
    bytes_are_counted_while_they_run_and_stay_counted_when_their_tunnel_is_gone
    more_tunnels_are_no_more_series
}

async fn seen() -> Running {
    seen_with(|_| {}).await
}

async fn seen_with(change: impl FnOnce(&mut tunnel_server::Config)) -> Running {
    server_with(|config| {
        config.admin.listen = AdminListen::At(([127, 0, 0, 1], 0).into());
        change(config);
    })
    .await
}

/// Scrapes until it shows that; not everything is over when its last byte has been heard.
async fn until(server: &Running, mut shows: impl FnMut(&Scrape) -> bool) -> Scrape {
    loop {
        let scrape = scrape(server).await;
        if shows(&scrape) {
            return scrape;
        }
        tokio::task::yield_now().await;
    }
}

async fn echoed(mut tunnel: TunnelListener, addr: std::net::SocketAddr) {
    tunnel.forward_to(addr.to_string()).await.unwrap();
}

async fn what_streams_do_is_counted_and_when_they_are_gone_nothing_is_left(backend: &str) {
    let server = seen().await;
    let by_backend = |name: &str| format!("{name}{{backend=\"{backend}\"}}");
    let open = |state: &str| format!("tunnel_tunnels{{backend=\"{backend}\",state=\"{state}\"}}");

    // Given a tunnel that has served ten clients, and serves two more.
    let echo = Origin::echo().await.unwrap();
    let tunnel = listen_on(&server, backend).await;
    let public = at(&tunnel.address().to_string());
    let serving = tokio::spawn(echoed(tunnel, echo.addr()));
    for answer in join_all((0..10).map(|_| ask(public, b"hello"))).await {
        assert_eq!(answer.unwrap(), b"hello");
    }
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(public).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        running.push(client);
    }

    // Then that is what is seen.
    let seen = until(&server, |seen| seen.value(&by_backend("tunnel_streams")) == 2.0).await;
    assert_eq!(seen.value("tunnel_streams_ended_total{end=\"finished\"}"), 10.0);
    assert_eq!(seen.value(&open("online")), 1.0);
    assert!(seen.value(&by_backend("tunnel_sessions")) >= 1.0);
    assert_eq!(seen.value("tunnel_stream_bytes_total{direction=\"to_agent\"}"), 60.0);
    assert_eq!(seen.value("tunnel_stream_bytes_total{direction=\"to_client\"}"), 60.0);
    assert_eq!(seen.value("tunnel_stream_opening_seconds_count"), 12.0);
    assert_eq!(seen.value("tunnel_opens_total{result=\"ok\"}"), 1.0);
    assert_eq!(seen.value("tunnel_open_seconds_count"), 1.0);
    if backend == "mux" {
        assert_eq!(seen.value("tunnel_agent_handshake_seconds_count"), 1.0);
    }

    // When a client is cut off and the tunnel closes under the other one.
    running.pop().unwrap().set_zero_linger().unwrap();
    let aborted = "tunnel_streams_ended_total{end=\"aborted_by_client\"}";
    until(&server, |seen| seen.value(aborted) == 1.0).await;
    serving.abort();
    let _ = serving.await;
    drop(running);

    // Then nothing is left but what has been.
    let seen =
        until(&server, |seen| ["waiting", "online", "offline"].iter().all(|state| seen.value(&open(state)) == 0.0))
            .await;
    for gone in ["tunnel_streams", "tunnel_sessions"] {
        assert_eq!(seen.value(&by_backend(gone)), 0.0, "{gone}");
    }
    for gone in ["tunnel_clients_waiting", "tunnel_door_waiting"] {
        until(&server, |seen| seen.value(gone) == 0.0).await;
    }
    assert_eq!(seen.value("tunnel_tunnels_closed_total{reason=\"requested\"}"), 1.0);
    assert_eq!(seen.value("tunnel_stream_bytes_total{direction=\"to_client\"}"), 60.0);
}

async fn bytes_are_counted_while_they_run_and_stay_counted_when_their_tunnel_is_gone(backend: &str) {
    let server = seen().await;
    let echo = Origin::echo().await.unwrap();
    let bytes = "tunnel_stream_bytes_total{direction=\"to_client\"}";
    let mut last = 0.0;
    for _ in 0..20 {
        let tunnel = listen_on(&server, backend).await;
        let public = at(&tunnel.address().to_string());
        let serving = tokio::spawn(echoed(tunnel, echo.addr()));
        let mut client = TcpStream::connect(public).await.unwrap();
        client.write_all(&[1; 1000]).await.unwrap();
        client.read_exact(&mut [0; 1000]).await.unwrap();
        // While it runs, and at every moment of its going.
        let before = last;
        last = until(&server, |seen| seen.value(bytes) > before).await.value(bytes);
        serving.abort();
        drop(client);
        until(&server, |seen| {
            let now = seen.value(bytes);
            assert!(now >= last && now <= before + 1000.0, "{now} after {last}");
            last = now;
            seen.value(&format!("tunnel_tunnels{{backend=\"{backend}\",state=\"online\"}}")) == 0.0
        })
        .await;
        assert_eq!(last, before + 1000.0);
    }
}

async fn more_tunnels_are_no_more_series(backend: &str) {
    let server = seen().await;
    let open = async || {
        let request = OpenTunnel { backend: Some(backend.to_owned()), ..OpenTunnel::default() };
        server.backend().open_tunnel(&Caller::embedded(), request).await.unwrap()
    };
    open().await;
    let first = scrape(&server).await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(open().await.id);
    }
    let then = scrape(&server).await;
    assert_eq!(then.value(&format!("tunnel_tunnels{{backend=\"{backend}\",state=\"waiting\"}}")), 201.0);
    assert_eq!(first.series(), then.series());
}

#[tokio::test]
async fn refusals_are_counted_by_what_and_why_and_tell_nobody_apart() {
    within(async {
        let file = CredentialsFile::new();
        let token = file.add("alice");
        let server = seen_with(|config| {
            config.credentials = Some(file.path());
            tcp(config).client_wait = Duration::from_millis(100);
        })
        .await;
        let refusals =
            |what: &str, reason: &str| format!("tunnel_refusals_total{{what=\"{what}\",reason=\"{reason}\"}}");

        // When somebody without credentials calls and dials in, and somebody with them asks for what is not there.
        rpc(&server).await.open_tunnel(OpenTunnelRequest::default()).await.unwrap_err();
        let dial_in = "/.well-known/ptth/t-1/ HTTP/1.1\r\nupgrade: ptth\r\nconnection: upgrade, close\r\nx:";
        assert_eq!(get(server.addr(), dial_in).await.unwrap().0, 401);
        let mut alice = rpc(&server).await;
        let authorized = |uri: &str| {
            let mut request = Request::new(GetTunnelAddressRequest { uri: uri.to_owned() });
            let bearer = format!("Bearer {}", token.expose()).parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
            request
        };
        alice.get_tunnel_address(authorized("tcp://127.0.0.1:1")).await.unwrap_err();
        // And a client finds no agent.
        let opened = server.backend().open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
        let mut client = TcpStream::connect(at(&opened.address.to_string())).await.unwrap();
        assert_eq!(hear_out(&mut client).await.1, Ended::Reset);
        // And somebody says at the door what nobody speaks there.
        let mut stranger = TcpStream::connect(server.addr()).await.unwrap();
        stranger.write_all(b"\0\0\0").await.unwrap();
        hear_out(&mut stranger).await;

        // Then each is counted.
        let seen = scrape(&server).await;
        for one in [
            &*refusals("call", "UNAUTHENTICATED"),
            &refusals("dial_in", "UNAUTHENTICATED"),
            &refusals("GetTunnelAddress", "NOT_FOUND"),
            "tunnel_clients_refused_total{reason=\"no_agent\"}",
            "tunnel_door_refused_total{reason=\"unknown_protocol\"}",
        ] {
            assert_eq!(seen.value(one), 1.0, "{one}");
        }
        let all = seen.series().join("\n");
        for secret in ["alice", token.expose(), &opened.id.to_string(), "127.0.0.1"] {
            assert!(!all.contains(secret), "{secret} is in {all}");
        }
    })
    .await;
}

#[tokio::test]
async fn waiting_clients_are_seen() {
    within(async {
        let server = seen().await;
        let opened = server.backend().open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
        let clients = join_all((0..3).map(|_| TcpStream::connect(at(&opened.address.to_string())))).await;
        until(&server, |seen| seen.value("tunnel_clients_waiting") == 3.0).await;
        for client in clients {
            client.unwrap().set_zero_linger().unwrap();
        }
        until(&server, |seen| seen.value("tunnel_clients_waiting") == 0.0).await;
        assert_eq!(scrape(&server).await.value("tunnel_clients_refused_total{reason=\"gave_up\"}"), 3.0);
    })
    .await;
}

#[tokio::test]
async fn it_says_what_it_is_and_how_its_process_does() {
    within(async {
        let server = seen().await;
        let seen = scrape(&server).await;
        assert_eq!(seen.value(concat!("tunnel_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}")), 1.0);
        for (name, least) in [
            ("process_open_fds", 5.0),
            ("process_max_fds", 64.0),
            ("process_resident_memory_bytes", 1e6),
            ("process_start_time_seconds", 1e9),
        ] {
            assert!(seen.value(name) >= least, "{name} {}", seen.value(name));
        }
        let (_, text) = get(admin(&server), "/metrics").await.unwrap();
        let described = |kind: &str| text.lines().filter(|line| line.starts_with(kind)).count();
        assert_eq!(described("# HELP "), described("# TYPE "));
        let request = "GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n";
        let answer = String::from_utf8(ask(admin(&server), request.as_bytes()).await.unwrap()).unwrap();
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn it_is_healthy_as_long_as_it_runs_and_ready_until_it_drains() {
    within(async {
        let server = seen_with(|config| config.drain = Duration::from_secs(50)).await;
        let admin = admin(&server);
        let opened = server.backend().open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
        let agent = TcpStream::connect(at(opened.uri.expose())).await.unwrap();
        let mut client = TcpStream::connect(at(&opened.address.to_string())).await.unwrap();
        client.write_all(b"a").await.unwrap();
        for (page, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
            assert_eq!(get(admin, page).await.unwrap(), (200, text.to_owned()), "{page}");
        }
        let (status, list) = get(admin, "/").await.unwrap();
        assert!(status == 404 && list.contains("/metrics"), "{list}");

        let stopping = tokio::spawn(server.shutdown());

        while get(admin, "/readyz").await.unwrap().0 != 503 {}
        assert_eq!(get(admin, "/healthz").await.unwrap().0, 200);
        assert_eq!(get(admin, "/metrics").await.unwrap().0, 200);
        drop((agent, client));
        stopping.await.unwrap();
        assert!(TcpStream::connect(admin).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn scrapers_that_are_slow_or_stuck_harm_nobody() {
    within(async {
        let server = seen().await;
        let mut stuck = Vec::new();
        for number in 0..200 {
            let mut scraper = TcpStream::connect(admin(&server)).await.unwrap();
            match number % 3 {
                0 => {}
                1 => scraper.write_all(b"GET /metr").await.unwrap(),
                _ => scraper.write_all(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap(),
            }
            stuck.push(scraper);
            if number % 20 == 19 {
                let limit = Duration::from_secs(2);
                timeout(limit, scrape(&server)).await.expect("metrics in time");
                let opening = rpc(&server).await.open_tunnel(OpenTunnelRequest::default()).await;
                opening.expect("a tunnel");
            }
        }
        // The oldest have made room.
        timeout(Duration::from_secs(5), hear_out(&mut stuck[0])).await.expect("its end");
    })
    .await;
}

#[tokio::test]
async fn a_crowd_that_is_not_allowed_takes_no_scrapers_place() {
    within(async {
        let server = seen_with(|config| config.admin.allow = vec!["127.0.0.1/32".parse().unwrap()]).await;
        let mut scraper = TcpStream::connect(admin(&server)).await.unwrap();
        let mut crowd = Vec::new();
        for _ in 0..100 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
            crowd.push(socket.connect(admin(&server)).await.unwrap());
        }
        // All of them have been accepted when one that comes later is answered.
        assert_eq!(get(admin(&server), "/healthz").await.unwrap().0, 200);

        scraper.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        scraper.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn who_is_not_allowed_sees_nothing() {
    within(async {
        let server = seen_with(|config| config.admin.allow = vec!["192.0.2.0/24".parse().unwrap()]).await;
        for page in ["/metrics", "/healthz"] {
            let (status, text) = get(admin(&server), page).await.unwrap();
            assert_eq!(status, 403, "{text}");
            assert!(text.contains("admin.allow"), "{text}");
        }
    })
    .await;
}
