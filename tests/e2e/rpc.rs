//! The five calls, as a stock client in any language makes them.

use std::time::{Duration, SystemTime};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Streaming, transport::Channel};
use tonic_reflection::pb::{v1 as reflection_v1, v1alpha as reflection_v1alpha};
use tunnel_api::rpc::v1::{
    self, CloseReason, CloseTunnelRequest, GetTunnelAddressRequest, ListTunnelsRequest, OpenTunnelRequest, StreamEnd,
    TunnelState, WatchTunnelsRequest, WatchTunnelsResponse, client::TunnelClient, close_tunnel_request::Tunnel,
    watch_tunnels_response::Event,
};
use tunnel_tests::{
    client::{at, get},
    limit::within,
    origin::answer_http,
    server::{channel, rpc, server},
};

pub(crate) async fn open(rpc: &mut TunnelClient<Channel>) -> v1::OpenTunnelResponse {
    rpc.open_tunnel(OpenTunnelRequest::default()).await.expect("a tunnel").into_inner()
}

/// The next thing that happened.
pub(crate) async fn next(events: &mut Streaming<WatchTunnelsResponse>) -> Event {
    events.message().await.expect("no end of the watch").expect("a message").event.expect("an event")
}

#[tokio::test]
async fn an_empty_request_opens_a_tunnel() {
    within(async {
        let server = server().await;
        let opened = open(&mut rpc(&server).await).await;

        assert!(opened.uri.starts_with("tcp://127.0.0.1:"), "{opened:?}");
        assert!(opened.address.starts_with("tcp://127.0.0.1:"), "{opened:?}");
        assert_ne!(opened.uri, opened.address);
        assert_eq!((opened.connections, opened.dial_from.first().map(String::as_str)), (1, Some("127.0.0.1/32")));
        let dial_by = SystemTime::try_from(opened.dial_by.unwrap()).unwrap();
        let left = dial_by.duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    })
    .await;
}

/// The walk in the order of the original description of the service.
#[tokio::test]
async fn open_dial_ask_for_the_address_advertise_it_as_http_and_be_reached() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;

        let uri = open(&mut rpc).await.uri;
        let mut dialled = TcpStream::connect(at(&uri)).await.unwrap();
        let asked = rpc.get_tunnel_address(GetTunnelAddressRequest { uri }).await.unwrap();
        let advertised = asked.into_inner().address.replace("tcp://", "http://");

        let agent = tokio::spawn(async move { answer_http(&mut dialled, "hello from behind NAT").await });
        let answer = get(at(&advertised), "/").await.unwrap();
        assert_eq!(answer, (200, "hello from behind NAT".to_owned()));
        agent.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_comes_before_the_agent_is_served_when_it_comes() {
    within(async {
        let server = server().await;
        let opened = open(&mut rpc(&server).await).await;

        let mut client = TcpStream::connect(at(&opened.address)).await.unwrap();
        client.write_all(b"early").await.unwrap();
        let mut agent = TcpStream::connect(at(&opened.uri)).await.unwrap();

        let mut heard = [0; 5];
        agent.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"early");
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_closes_by_uri_by_id_and_by_name_and_is_free_at_once() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        for which in ["uri", "id", "name"] {
            let request = OpenTunnelRequest { name: "blog".to_owned(), ..Default::default() };
            let opened = rpc.open_tunnel(request).await.unwrap().into_inner();
            let tunnel = Some(match which {
                "uri" => Tunnel::Uri(opened.uri.clone()),
                "id" => Tunnel::Id(opened.id.clone()),
                _ => Tunnel::Name("blog".to_owned()),
            });
            rpc.close_tunnel(CloseTunnelRequest { tunnel: tunnel.clone() }).await.expect(which);

            for place in [&opened.address, &opened.uri] {
                std::net::TcpListener::bind(at(place)).unwrap_or_else(|error| panic!("{which} {place}: {error}"));
            }
            let again = rpc.close_tunnel(CloseTunnelRequest { tunnel }).await.expect_err(which);
            assert_eq!(again.code(), Code::NotFound, "{which}");
        }
    })
    .await;
}

#[tokio::test]
async fn opening_a_name_again_gives_the_same_tunnel() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let request = OpenTunnelRequest { name: "blog".to_owned(), connections: 4, ..Default::default() };
        let first = rpc.open_tunnel(request.clone()).await.unwrap().into_inner();
        let again = rpc.open_tunnel(request.clone()).await.unwrap().into_inner();
        assert_eq!((&again.id, &again.uri, &again.address), (&first.id, &first.uri, &first.address));

        let other = OpenTunnelRequest { connections: 5, ..request };
        let refusal = rpc.open_tunnel(other).await.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert!(refusal.message().contains("connections 4"), "{}", refusal.message());
    })
    .await;
}

#[tokio::test]
async fn a_list_comes_in_pages_and_tells_no_uri() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let mut opened = Vec::new();
        for _ in 0..3 {
            opened.push(open(&mut rpc).await);
        }
        let mut request = ListTunnelsRequest { page_size: 1, page_token: String::new() };
        let mut listed = Vec::new();
        loop {
            let page = rpc.list_tunnels(request.clone()).await.unwrap().into_inner();
            assert!(page.tunnels.len() <= 1, "{page:?}");
            listed.extend(page.tunnels);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }

        let ids: Vec<_> = listed.iter().map(|tunnel| &tunnel.id).collect();
        let mut expected: Vec<_> = opened.iter().map(|tunnel| &tunnel.id).collect();
        expected.sort();
        assert_eq!(ids, expected);
        for tunnel in &opened {
            let port = at(&tunnel.uri).port().to_string();
            assert!(!format!("{listed:?}").contains(&format!(":{port}")), "the list tells a dial-in port");
        }
        let first = &listed[0];
        assert_eq!((first.backend.as_str(), first.state()), ("tcp", TunnelState::Waiting));
        assert!(first.expire_time.is_some() && first.open_time.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_watch_tells_the_present_state_and_then_what_happens() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let earlier = open(&mut rpc).await;
        let mut events = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
        assert!(matches!(next(&mut events).await, Event::Present(info) if info.id == earlier.id));
        assert!(matches!(next(&mut events).await, Event::Ready(_)));

        let request = OpenTunnelRequest { connections: 2, ..Default::default() };
        let opened = rpc.open_tunnel(request).await.unwrap().into_inner();
        assert!(matches!(next(&mut events).await, Event::Opened(info) if info.id == opened.id));

        let mut agent = TcpStream::connect(at(&opened.uri)).await.unwrap();
        let from = agent.local_addr().unwrap().to_string();
        assert!(matches!(next(&mut events).await, Event::AgentConnected(it) if it.agent == from));

        let mut client = TcpStream::connect(at(&opened.address)).await.unwrap();
        let from = client.local_addr().unwrap().to_string();
        assert!(matches!(next(&mut events).await, Event::ClientConnected(it) if it.client == from));

        client.write_all(b"12345").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        agent.read_to_end(&mut heard).await.unwrap();
        agent.write_all(b"123").await.unwrap();
        drop(agent);
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"12345123");
        let Event::ClientEnded(ended) = next(&mut events).await else { panic!("no end of the client") };
        assert_eq!((ended.end(), ended.bytes_to_agent, ended.bytes_to_client), (StreamEnd::Finished, 5, 3));
        assert!(matches!(next(&mut events).await, Event::AgentLost(it) if it.expire_time.is_some()));

        let tunnel = Some(Tunnel::Id(opened.id));
        rpc.close_tunnel(CloseTunnelRequest { tunnel }).await.unwrap();
        assert!(matches!(next(&mut events).await, Event::Closed(it) if it.reason() == CloseReason::Requested));
    })
    .await;
}

#[tokio::test]
async fn a_watch_of_one_tunnel_tells_of_no_other() {
    within(async {
        let server = server().await;
        let mut rpc = rpc(&server).await;
        let (mine, other) = (open(&mut rpc).await, open(&mut rpc).await);
        let watch = WatchTunnelsRequest { id: mine.id.clone(), ..Default::default() };
        let mut events = rpc.watch_tunnels(watch).await.unwrap().into_inner();
        assert!(matches!(next(&mut events).await, Event::Present(info) if info.id == mine.id));
        assert!(matches!(next(&mut events).await, Event::Ready(_)));
        for id in [other.id, mine.id.clone()] {
            rpc.close_tunnel(CloseTunnelRequest { tunnel: Some(Tunnel::Id(id)) }).await.unwrap();
        }
        let told = events.message().await.unwrap().unwrap();
        assert_eq!(told.id, mine.id);
    })
    .await;
}

#[tokio::test]
async fn reflection_v1_lists_the_services() {
    use reflection_v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    within(async {
        let server = server().await;
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut client = ServerReflectionClient::new(channel(&server).await);
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"tunnel.v1.Tunnel") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    })
    .await;
}

#[tokio::test]
async fn reflection_v1alpha_lists_the_services() {
    use reflection_v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    within(async {
        let server = server().await;
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut client = ServerReflectionClient::new(channel(&server).await);
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"tunnel.v1.Tunnel"), "{names:?}");
    })
    .await;
}
