//! What an agent on `mux` sees on its wire.

use std::{future::poll_fn, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tunnel_api::{OpenedTunnel, TunnelBackend};
use tunnel_backends::{
    carrier::ptth::Gate,
    mux::MuxConfig,
    testing::{self, BehindDoor, Rig, Setup, Stage, client::try_connect, connect},
    tunnels::Tunnels,
};

struct Mux;

impl Rig for Mux {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        let gate = Gate::new();
        BehindDoor::new(
            |http| gate.clone().in_front_of(http),
            |door| {
                let config = MuxConfig::new("mux", Tunnels::new(), setup.public_ports, gate.clone(), door);
                MuxConfig { times: setup.times, ..config }.build()
            },
        )
    }

    fn carries_many(&self) -> bool {
        true
    }
}

/// An agent on nothing but the `h2` crate, come in.
async fn come_in(tunnel: &OpenedTunnel) -> Connection<TcpStream, Bytes> {
    let uri = &tunnel.uri;
    let mut socket = TcpStream::connect((uri.host().to_string(), uri.port())).await.expect("a connection to the door");
    let (id, ticket) = uri.credentials().expect("credentials");
    let credentials = BASE64_STANDARD.encode(format!("{id}:{ticket}"));
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: ptth\r\nAuthorization: Basic {credentials}\r\n\r\n",
        uri.target()
    );
    socket.write_all(request.as_bytes()).await.expect("a request that is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    h2::server::Builder::new().max_concurrent_streams(100).handshake(socket).await.expect("HTTP/2")
}

type Asked = (Request<h2::RecvStream>, SendResponse<Bytes>);

async fn next(agent: &mut Connection<TcpStream, Bytes>) -> Asked {
    timeout(Duration::from_secs(5), agent.accept())
        .await
        .expect("a client in time")
        .expect("a session")
        .expect("a client")
}

fn status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

#[test]
fn an_answer_that_refuses_a_client_and_ends_is_not_reset() {
    testing::keep(&Mux, async |rig: &dyn Rig| {
        let stage = Stage::new(rig);
        let tunnel = stage.open(1).await;
        let mut agent = come_in(&tunnel).await;
        let client = tokio::spawn({
            let address = tunnel.address.clone();
            async move { testing::hear(&mut connect(&address).await).await }
        });
        let (request, mut respond) = next(&mut agent).await;
        // Head, body and end are frames of their own, as most libraries have it.
        let mut send = respond.send_response(status(StatusCode::BAD_GATEWAY), false).unwrap();
        send.send_data(Bytes::from_static(b"the service is down"), false).unwrap();
        send.send_data(Bytes::new(), true).unwrap();
        let mut body = request.into_body();
        let hear_out = async {
            while let Some(heard) = poll_fn(|cx| body.poll_data(cx)).await {
                assert_eq!(heard.expect("an end and not a reset"), "");
            }
        };
        tokio::select! {
            () = hear_out => {}
            _ = agent.accept() => panic!("another client, or the end"),
        }
        drop(client);
    });
}

/// Libraries end sessions whose peer resets too often, so resets take turns.
#[test]
fn clients_that_are_refused_by_half_an_answer_are_reset_in_turns() {
    testing::keep(&Mux, async |rig: &dyn Rig| {
        let stage = Stage::new(rig);
        let tunnel = stage.open(1).await;
        let mut agent = come_in(&tunnel).await;
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let address = tunnel.address.clone();
            clients.spawn(async move {
                loop {
                    // It may be reset before it knows that it is connected.
                    if let Ok(mut client) = try_connect(&address).await {
                        testing::hear(&mut client).await;
                    }
                }
            });
        }
        let mut resets = 0;
        let mut waiting = JoinSet::new();
        let _ = timeout(Duration::from_secs(3), async {
            loop {
                tokio::select! {
                    Some(_) = waiting.join_next() => resets += 1,
                    asked = agent.accept() => {
                        let (request, mut respond) = asked.unwrap().unwrap();
                        waiting.spawn(async move {
                            // The rest of it never comes.
                            let _rest = respond.send_response(status(StatusCode::BAD_GATEWAY), false).unwrap();
                            let mut body = request.into_body();
                            while let Some(Ok(_)) = poll_fn(|cx| body.poll_data(cx)).await {}
                        });
                    }
                }
            }
        })
        .await;
        // 500 at once and 25 a second, as for an agent that does not say what it bears.
        assert!((100..=600).contains(&resets), "{resets} resets in 3 s");
    });
}
