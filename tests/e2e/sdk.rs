//! The agent's listener behaves like any other listener.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get as route};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Barrier, oneshot},
    task::JoinSet,
};
use tonic::{
    Code,
    transport::{Endpoint, Server},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tunnel_agent::{Agent, AgentState, ConnectError, OpenError, Peer, Tunnel, TunnelError};
use tunnel_api::rpc::v1::{
    CloseReason, CloseTunnelRequest, ListTunnelsRequest, WatchTunnelsRequest, close_tunnel_request::Tunnel as Which,
    watch_tunnels_response::Event,
};
use tunnel_tests::{
    client::{Ended, ask, at, get, hear_out},
    limit::within,
    origin::Origin,
    server::{listen_on, ports, rpc, server},
};

use crate::rpc::next;

each_backend! {
    axum_serves_parallel_requests_through_a_tunnel
    axum_is_told_the_clients_address
    tonic_serves_through_a_tunnel
    a_service_that_speaks_first_is_heard
    a_tunnel_that_somebody_else_closes_ends_the_listener_and_stays_closed
    a_dropped_listener_lets_its_streams_end_and_then_closes_the_tunnel
    what_a_stream_was_given_arrives_though_its_agent_leaves_at_once
    what_a_stream_was_given_arrives_though_its_agents_program_ends
    closing_frees_the_port_and_resets_what_runs
    a_local_service_that_is_down_costs_its_clients_only_and_may_come_back
    an_aborted_stream_is_a_reset_to_the_client
}

/// Each of them is watched, and a server lets only a hundred streams be open on one connection.
#[tokio::test]
async fn one_agent_holds_any_number_of_tunnels() {
    let server = server().await;
    let agent = Agent::connect(&server.url()).await.unwrap();
    let mut tunnels = Vec::new();
    for _ in 0..230 {
        tunnels.push(within(agent.open(Tunnel::tcp().backend("mux"))).await.unwrap());
    }
    for tunnel in &tunnels {
        within(tunnel.state().wait_for(|state| *state == AgentState::Online)).await.unwrap();
    }
    let one_more = within(agent.open(Tunnel::tcp())).await.unwrap();
    within(one_more.close()).await;
}

async fn axum_serves_parallel_requests_through_a_tunnel(backend: &str) {
    let server = server().await;
    let tunnel = listen_on(&server, backend).await;
    let public = at(&tunnel.address().to_string());
    // Nobody is answered before all are there.
    let all = Arc::new(Barrier::new(30));
    let app = Router::new().route("/", route(async move || if all.wait().await.is_leader() { "last" } else { "" }));
    let serving = tokio::spawn(axum::serve(tunnel, app).into_future());

    let mut requests: JoinSet<_> = (0..30).map(|_| get(public, "/")).collect();

    let mut answers = Vec::new();
    while let Some(answer) = requests.join_next().await {
        answers.push(answer.unwrap().unwrap());
    }
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, body)| body == "last").count(), 1);
    serving.abort();
}

async fn axum_is_told_the_clients_address(backend: &str) {
    let server = server().await;
    let tunnel = listen_on(&server, backend).await;
    let public = at(&tunnel.address().to_string());
    let whoami = async |ConnectInfo(peer): ConnectInfo<Peer>| peer.client_addr.to_string();
    let app = Router::new().route("/", route(whoami)).into_make_service_with_connect_info::<Peer>();
    let serving = tokio::spawn(axum::serve(tunnel, app).into_future());

    let mut client = TcpStream::connect(public).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(hear_out(&mut client).await.0).unwrap();
    let own = client.local_addr().unwrap().to_string();
    assert!(answer.ends_with(&own), "{answer:?} does not end with {own}");
    serving.abort();
}

async fn tonic_serves_through_a_tunnel(backend: &str) {
    let server = server().await;
    let tunnel = listen_on(&server, backend).await;
    let url = tunnel.address().to_http();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("behind.nat", ServingStatus::Serving).await;
    let serving = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(tunnel));

    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: "behind.nat".to_owned() };
    let answer = HealthClient::new(channel).check(request).await.unwrap().into_inner();

    assert_eq!(answer.status, ServingStatus::Serving as i32);
    serving.abort();
}

async fn a_service_that_speaks_first_is_heard(backend: &str) {
    let server = server().await;
    let mut tunnel = listen_on(&server, backend).await;
    let public = at(&tunnel.address().to_string());
    let origin = Origin::speaks_first("220 ready\r\n").await.unwrap();
    let target = origin.addr().to_string();
    let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });

    let mut client = TcpStream::connect(public).await.unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    assert_eq!(ask(public, b"quit").await.unwrap(), b"220 ready\r\nquit");
    forwarding.abort();
}

async fn a_tunnel_that_somebody_else_closes_ends_the_listener_and_stays_closed(backend: &str) {
    let server = server().await;
    let mut rpc = rpc(&server).await;
    let mut tunnel = listen_on(&server, backend).await;
    tunnel.state().wait_for(|state| *state == AgentState::Online).await.unwrap();
    let mut events = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
    let Event::Present(info) = next(&mut events).await else { panic!("no tunnel is there") };

    rpc.close_tunnel(CloseTunnelRequest { tunnel: Some(Which::Id(info.id)) }).await.unwrap();

    assert!(tunnel.accept().await.is_err());
    tunnel.closed().await;
    loop {
        match next(&mut events).await {
            Event::Opened(again) => panic!("the agent opened it again: {again:?}"),
            Event::Closed(_) => break,
            _ => {}
        }
    }
    let left = rpc.list_tunnels(ListTunnelsRequest::default()).await.unwrap().into_inner().tunnels;
    assert!(left.is_empty(), "{left:?}");
}

async fn a_dropped_listener_lets_its_streams_end_and_then_closes_the_tunnel(backend: &str) {
    let server = server().await;
    let mut tunnel = listen_on(&server, backend).await;
    let state = tunnel.state();
    let public = at(&tunnel.address().to_string());
    let mut client = TcpStream::connect(public).await.unwrap();
    let mut stream = tunnel.accept().await.unwrap();
    let mut events = rpc(&server).await.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();

    drop(tunnel);
    client.write_all(b"still").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    stream.write_all(b"here").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = hear_out(&mut client).await;
    assert_eq!((&heard, answer), (b"still", (b"here".to_vec(), Ended::Finished)));
    assert_ne!(*state.borrow(), AgentState::Closed);

    drop(client);
    assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
    drop(stream);
    loop {
        if let Event::Closed(closed) = next(&mut events).await {
            assert_eq!(closed.reason(), CloseReason::Requested);
            break;
        }
    }
}

async fn what_a_stream_was_given_arrives_though_its_agent_leaves_at_once(backend: &str) {
    let server = server().await;
    let mut tunnel = listen_on(&server, backend).await;
    let mut client = TcpStream::connect(at(&tunnel.address().to_string())).await.unwrap();
    let mut stream = tunnel.accept().await.unwrap();
    // It has nothing more to say, and so its stream is over when we have ended ours.
    client.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let client = tokio::spawn(async move { hear_out(&mut client).await });

    let answer = vec![7; 8 << 20];
    stream.write_all(&answer).await.unwrap();
    drop(stream);
    tunnel.leave().await;

    let (heard, end) = client.await.unwrap();
    assert_eq!((heard.len(), end), (answer.len(), Ended::Finished));
}

/// A named tunnel is not closed, so that there is nothing else to wait for.
async fn what_a_stream_was_given_arrives_though_its_agents_program_ends(backend: &str) {
    let server = server().await;
    let (url, tunnel) = (server.url(), Tunnel::tcp().backend(backend).name("short"));
    let (address_in, address) = oneshot::channel();
    let program = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let mut tunnel = Agent::connect(&url).await.unwrap().open(tunnel).await.unwrap();
            address_in.send(tunnel.address().to_string()).unwrap();
            let mut stream = tunnel.accept().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            stream.write_all(&vec![7; 8 << 20]).await.unwrap();
            drop(stream);
            tunnel.leave().await;
        });
    });
    let mut client = TcpStream::connect(at(&address.await.unwrap())).await.unwrap();
    client.shutdown().await.unwrap();
    let (heard, end) = hear_out(&mut client).await;
    assert_eq!((heard.len(), end), (8 << 20, Ended::Finished));
    program.join().unwrap();
}

async fn closing_frees_the_port_and_resets_what_runs(backend: &str) {
    let server = server().await;
    let mut tunnel = listen_on(&server, backend).await;
    let public = at(&tunnel.address().to_string());
    let mut client = TcpStream::connect(public).await.unwrap();
    let _stream = tunnel.accept().await.unwrap();

    tunnel.close().await;

    assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
    // Like any server that is started again: with what is left of old connections it may take the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(public).unwrap();
    socket.listen(1).unwrap();
}

async fn a_local_service_that_is_down_costs_its_clients_only_and_may_come_back(backend: &str) {
    let server = server().await;
    let mut tunnel = listen_on(&server, backend).await;
    let public = at(&tunnel.address().to_string());
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], *ports(1).start()));
    let forwarding = tokio::spawn(async move { tunnel.forward_to(target.to_string()).await });
    for _ in 0..3 {
        let mut client = TcpStream::connect(public).await.unwrap();
        assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
    }
    let _service = Origin::echo_at(target).await.unwrap();
    assert_eq!(ask(public, b"back").await.unwrap(), b"back");
    forwarding.abort();
}

async fn an_aborted_stream_is_a_reset_to_the_client(backend: &str) {
    let server = server().await;
    let mut tunnel = listen_on(&server, backend).await;
    let mut client = TcpStream::connect(at(&tunnel.address().to_string())).await.unwrap();
    let mut stream = tunnel.accept().await.unwrap();
    stream.write_all(b"half an ans").await.unwrap();
    let mut heard = [0; 11];
    client.read_exact(&mut heard).await.unwrap();
    stream.abort();
    assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
}

#[tokio::test]
async fn refusals_reach_the_agent_as_what_they_are() {
    within(async {
        let server = server().await;
        let agent = Agent::connect(&server.url()).await.unwrap();
        let unknown = agent.open(Tunnel::tcp().backend("ssh")).await.unwrap_err();
        assert!(
            matches!(&unknown, OpenError::Refused(TunnelError::Invalid { field, .. }) if field == "backend"),
            "{unknown:?}"
        );
        let first = agent.open(Tunnel::tcp()).await.unwrap();
        let taken = agent.open(Tunnel::tcp().port(first.address().port())).await.unwrap_err();
        assert!(matches!(taken, OpenError::Refused(TunnelError::AddressTaken { .. })), "{taken:?}");
        assert!(matches!(agent.open(Tunnel::tcp().name("two words")).await, Err(OpenError::BadName(_))));
        let nobody = Agent::connect("http://127.0.0.1:1").await.unwrap_err();
        assert!(matches!(nobody, ConnectError::Unreachable { .. }), "{nobody:?}");
        assert!(matches!(Agent::connect("127.0.0.1:8010").await, Err(ConnectError::BadUrl { .. })));
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_gone_is_missed_and_a_second_one_serves() {
    within(async {
        // Given two agents of one named tunnel, of which the first has taken all clients there were.
        let server = server().await;
        let agent = Agent::connect(&server.url()).await.unwrap();
        let named = || Tunnel::tcp().name("shared").connections(16);
        let mut first = agent.open(named()).await.unwrap();
        let public = at(&first.address().to_string());
        let mut client = TcpStream::connect(public).await.unwrap();
        drop(first.accept().await.unwrap());
        hear_out(&mut client).await;
        // When the first one goes and the other one comes.
        drop(first);
        let mut second = agent.open(named()).await.unwrap();
        assert_eq!(at(&second.address().to_string()), public);
        // Then it is the one that serves.
        let client = tokio::spawn(ask(public, b"who?"));
        let mut stream = second.accept().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(b"the second").await.unwrap();
        drop(stream);
        assert_eq!((heard, client.await.unwrap().unwrap()), (b"who?".to_vec(), b"the second".to_vec()));
        second.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_without_agents_closes_after_its_grace() {
    within(async {
        let server = tunnel_tests::server::server_with(|config| {
            tunnel_tests::server::tcp(config).grace = Duration::from_millis(50);
        })
        .await;
        let mut rpc = rpc(&server).await;
        let request = tunnel_api::rpc::v1::OpenTunnelRequest { connections: 2, ..Default::default() };
        let opened = rpc.open_tunnel(request).await.unwrap().into_inner();
        let mut events = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
        drop(TcpStream::connect(at(&opened.uri)).await.unwrap());
        let reason = loop {
            if let Event::Closed(closed) = next(&mut events).await {
                break closed.reason();
            }
        };
        assert_eq!(reason, CloseReason::AgentLost);
        let gone = tunnel_api::rpc::v1::GetTunnelAddressRequest { uri: opened.uri };
        assert_eq!(rpc.get_tunnel_address(gone).await.unwrap_err().code(), Code::NotFound);
    })
    .await;
}
