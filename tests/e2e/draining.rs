//! A server that stops says so, takes nothing new, and lets what runs end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tunnel_api::rpc::v1::{OpenTunnelRequest, WatchTunnelsRequest, watch_tunnels_response::Event};
use tunnel_tests::{
    client::{Ended, at, hear_out},
    limit::within,
    server::{channel, listen_on, rpc, server, server_with},
};

use crate::rpc::{next, open};

each_backend! {
    what_a_client_has_said_arrives_though_the_server_stops
}

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_is_serving_for_the_server_and_the_service() {
    within(async {
        let server = server().await;
        let mut health = HealthClient::new(channel(&server).await);
        for service in ["", "tunnel.v1.Tunnel"] {
            let answer = health.check(health_of(service)).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        }
        let unknown = health.check(health_of("nobody")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    })
    .await;
}

#[tokio::test]
async fn a_draining_server_says_so_takes_nothing_new_and_lets_streams_end() {
    within(async {
        // Given a stream that runs, and everybody who wants to know.
        let server = server_with(|config| config.drain = Duration::from_secs(50)).await;
        let mut rpc = rpc(&server).await;
        let opened = open(&mut rpc).await;
        let mut agent = TcpStream::connect(at(&opened.uri)).await.unwrap();
        let mut client = TcpStream::connect(at(&opened.address)).await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(agent.read_u8().await.unwrap(), b'a');
        let mut events = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
        while !matches!(next(&mut events).await, Event::Ready(_)) {}
        let mut health = HealthClient::new(channel(&server).await);
        let mut status = health.watch(health_of("tunnel.v1.Tunnel")).await.unwrap().into_inner();
        assert_eq!(status.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

        // When it is told to stop.
        let stopping = tokio::spawn(server.shutdown());

        // Then it says so.
        assert_eq!(status.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        for service in ["", "tunnel.v1.Tunnel"] {
            let answer = health.check(health_of(service)).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::NotServing, "{service:?}");
        }
        let end = loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unavailable);
        let refused = rpc.open_tunnel(OpenTunnelRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{}", refused.message());

        // And the stream goes on to its end.
        assert!(!stopping.is_finished());
        agent.write_all(b"b").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
        drop(agent);
        assert_eq!(hear_out(&mut client).await, (vec![], Ended::Finished));
        drop(client);
        stopping.await.unwrap();
    })
    .await;
}

async fn what_a_client_has_said_arrives_though_the_server_stops(backend: &str) {
    let server = server_with(|config| config.drain = Duration::from_secs(50)).await;
    let mut tunnel = listen_on(&server, backend).await;
    let mut client = TcpStream::connect(at(&tunnel.address().to_string())).await.unwrap();
    let mut stream = tunnel.accept().await.unwrap();
    // We have nothing to say, and so the stream is over with what the client says.
    stream.shutdown().await.unwrap();
    let stopping = tokio::spawn(server.shutdown());
    assert_eq!(hear_out(&mut client).await, (vec![], Ended::Finished));

    let upload = vec![7; 8 << 20];
    let length = upload.len();
    tokio::spawn(async move { client.write_all(&upload).await.unwrap() });
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), length);
    stopping.await.unwrap();
}

#[tokio::test]
async fn what_still_runs_when_the_drain_is_over_is_aborted() {
    within(async {
        let server = server_with(|config| config.drain = Duration::from_millis(200)).await;
        let opened = open(&mut rpc(&server).await).await;
        let mut agent = TcpStream::connect(at(&opened.uri)).await.unwrap();
        let mut client = TcpStream::connect(at(&opened.address)).await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(agent.read_u8().await.unwrap(), b'a');

        server.shutdown().await;

        assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
        assert_eq!(hear_out(&mut agent).await, (vec![], Ended::Reset));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_has_stopped_holds_no_connection() {
    within(async {
        let server = server().await;
        let addr = server.addr();
        let mut silent = TcpStream::connect(addr).await.unwrap();
        // HTTP/2 that asks nothing and acknowledges nothing, and HTTP/1.1 between two requests.
        let mut idle = TcpStream::connect(addr).await.unwrap();
        idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        idle.read_u8().await.unwrap();
        let mut kept = TcpStream::connect(addr).await.unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        kept.read_u8().await.unwrap();
        open(&mut rpc(&server).await).await;

        server.shutdown().await;

        for (what, socket) in [("silent", &mut silent), ("idle", &mut idle), ("kept", &mut kept)] {
            timeout(Duration::from_secs(1), hear_out(socket)).await.expect(what);
        }
        TcpListener::bind(addr).await.expect("the port is free");
    })
    .await;
}
