//! Everything is a backend: a remote server is one, a router over several is one, and they stack.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use futures_util::StreamExt;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::transport::server::TcpIncoming;
use tunnel_agent::{Agent, Tunnel};
use tunnel_api::{
    Caller, OpenTunnel, Owner, Page, Router, TunnelBackend, TunnelError, TunnelEvents, TunnelRef, WatchFilter, What,
    rpc::{RemoteBackend, TunnelService},
};
use tunnel_server::Running;
use tunnel_tests::{
    client::{ask, at},
    limit::within,
    origin::Origin,
    server::{server, server_with},
};

/// Any backend behind gRPC, by the library alone.
async fn serve(backend: impl TunnelBackend) -> (String, JoinHandle<Result<(), tonic::transport::Error>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = TunnelService::new(backend).into_server();
    let server = tonic::transport::Server::builder().add_service(service);
    (url, tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener))))
}

async fn remote(url: &str) -> RemoteBackend {
    RemoteBackend::connect(url).await.expect("it answers")
}

/// A router over one server by gRPC and another one in this process.
async fn two_backends() -> (Running, Running, Router) {
    let (far, near) = (server().await, server().await);
    let backends: BTreeMap<String, Arc<dyn TunnelBackend>> = [
        ("far".to_owned(), Arc::new(remote(&far.url()).await) as Arc<dyn TunnelBackend>),
        ("near".to_owned(), near.backend()),
    ]
    .into();
    let router = Router::new(backends, "near").expect("near is among them");
    (far, near, router)
}

async fn ids(backend: &dyn TunnelBackend) -> Vec<String> {
    let all = Page { after: None, limit: Page::MAX };
    let tunnels = backend.list_tunnels(&Caller::embedded(), &all).await.expect("a list");
    tunnels.into_iter().map(|tunnel| tunnel.id.to_string()).collect()
}

async fn next(events: &mut TunnelEvents) -> What {
    events.next().await.expect("no end of the watch").expect("an event").what
}

fn on(backend: &str) -> OpenTunnel {
    OpenTunnel { backend: Some(backend.to_owned()), ..OpenTunnel::default() }
}

#[tokio::test]
async fn a_remote_backend_behind_a_service_behind_a_remote_backend_serves() {
    within(async {
        let server = server().await;
        let (url, serving) = serve(remote(&server.url()).await).await;
        let agent = Agent::connect(&url).await.unwrap();

        let mut tunnel = agent.open(Tunnel::tcp().name("deep").label("a", "b")).await.unwrap();

        let public = at(&tunnel.address().to_string());
        let origin = Origin::echo().await.unwrap();
        let target = origin.addr().to_string();
        let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });
        assert_eq!(ask(public, b"through two").await.unwrap(), b"through two");

        let caller = Caller::embedded();
        let outermost = remote(&url).await;
        let mut events = outermost.watch_tunnels(&caller, &WatchFilter::default()).await.unwrap();
        let What::Present(info) = next(&mut events).await else { panic!("no tunnel") };
        assert_eq!((info.name.unwrap().as_str(), info.labels["a"].as_str(), info.bytes_to_agent), ("deep", "b", 11));
        outermost.close_tunnel(&caller, &TunnelRef::Id(info.id)).await.unwrap();
        forwarding.await.unwrap().unwrap();
        assert!(ids(&*server.backend()).await.is_empty());
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn refusals_pass_through_two_services_unchanged() {
    within(async {
        let server = server().await;
        let (url, serving) = serve(remote(&server.url()).await).await;
        let (near, far) = (remote(&server.url()).await, remote(&url).await);
        let caller = Caller::embedded();
        let opened = near.open_tunnel(&caller, OpenTunnel::default()).await.unwrap();
        let wrong = [
            on("ssh"),
            OpenTunnel {
                address: format!("tcp://:{}", opened.address.port()).parse().unwrap(),
                ..OpenTunnel::default()
            },
            OpenTunnel { connections: Some(1_000_000), ..OpenTunnel::default() },
        ];
        for request in wrong {
            let direct = near.open_tunnel(&caller, request.clone()).await.unwrap_err();
            let through = far.open_tunnel(&caller, request).await.unwrap_err();
            assert_eq!(format!("{direct:?}"), format!("{through:?}"));
        }
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn owners_behind_a_remote_backend_have_names_of_their_own() {
    within(async {
        let server = server().await;
        let remote = remote(&server.url()).await;
        let caller = |owner: &str| Caller { owner: Owner::new(owner), ..Caller::embedded() };
        let named = || OpenTunnel { name: Some("blog".parse().unwrap()), ..OpenTunnel::default() };

        let alices = remote.open_tunnel(&caller("alice"), named()).await.unwrap();
        let bobs = remote.open_tunnel(&caller("bob"), named()).await.unwrap();
        assert_ne!(alices.id, bobs.id);

        remote.close_tunnel(&caller("alice"), &TunnelRef::Name("blog".parse().unwrap())).await.unwrap();
        assert_eq!(ids(&*server.backend()).await, [bobs.id.to_string()]);
        let again = remote.open_tunnel(&caller("bob"), named()).await.unwrap();
        assert_eq!(again.id, bobs.id);
    })
    .await;
}

#[tokio::test]
async fn a_router_routes_by_the_backends_name() {
    within(async {
        let (far, near, router) = two_backends().await;
        let caller = Caller::embedded();
        let there = router.open_tunnel(&caller, on("far")).await.unwrap();
        let here = router.open_tunnel(&caller, on("near")).await.unwrap();
        let anywhere = router.open_tunnel(&caller, OpenTunnel::default()).await.unwrap();

        assert_eq!(ids(&*far.backend()).await, [there.id.to_string()]);
        let mut expected = [here.id.to_string(), anywhere.id.to_string()];
        expected.sort();
        assert_eq!(ids(&*near.backend()).await, expected);

        for opened in [&there, &here] {
            let address = router.get_tunnel_address(&caller, &opened.uri).await.unwrap();
            assert_eq!(address, opened.address);
        }
        let unknown = router.open_tunnel(&caller, on("elsewhere")).await.unwrap_err();
        assert!(unknown.to_string().contains("far, near"), "{unknown}");
    })
    .await;
}

#[tokio::test]
async fn a_router_merges_lists_and_pages_through_them() {
    within(async {
        let (_far, _near, router) = two_backends().await;
        let caller = Caller::embedded();
        let mut expected = Vec::new();
        for backend in ["far", "near", "far", "near"] {
            expected.push(router.open_tunnel(&caller, on(backend)).await.unwrap().id.to_string());
        }
        expected.sort();
        assert_eq!(ids(&router).await, expected);

        let mut paged = Vec::new();
        let mut page = Page { after: None, limit: 1 };
        while let [tunnel] = router.list_tunnels(&caller, &page).await.unwrap().as_slice() {
            paged.push(tunnel.id.to_string());
            page.after = Some(tunnel.id.clone());
        }
        assert_eq!(paged, expected);
    })
    .await;
}

#[tokio::test]
async fn a_router_merges_watches_and_is_ready_once() {
    within(async {
        let (_far, _near, router) = two_backends().await;
        let caller = Caller::embedded();
        for backend in ["far", "near"] {
            router.open_tunnel(&caller, on(backend)).await.unwrap();
        }
        let mut events = router.watch_tunnels(&caller, &WatchFilter::default()).await.unwrap();
        let mut present = 0;
        loop {
            match next(&mut events).await {
                What::Present(_) => present += 1,
                What::Ready => break,
                other => panic!("{other:?} before ready"),
            }
        }
        assert_eq!(present, 2);
        for backend in ["far", "near"] {
            let opened = router.open_tunnel(&caller, on(backend)).await.unwrap();
            assert!(matches!(next(&mut events).await, What::Opened(info) if info.id == opened.id), "{backend}");
            router.close_tunnel(&caller, &TunnelRef::Id(opened.id)).await.unwrap();
            assert!(matches!(next(&mut events).await, What::Closed { .. }), "{backend}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_remote_server_that_is_gone_is_unavailable() {
    within(async {
        let server = server_with(|_| {}).await;
        let remote = remote(&server.url()).await;
        server.shutdown().await;
        let refusal = remote.open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap_err();
        assert!(matches!(refusal, TunnelError::Unavailable { .. }), "{refusal:?}");
    })
    .await;
}

#[tokio::test]
async fn an_embedded_agent_needs_no_rpc() {
    within(async {
        let server = server().await;
        let mut tunnel = Agent::embedded(server.backend()).open(Tunnel::tcp()).await.unwrap();
        let public: SocketAddr = at(&tunnel.address().to_string());
        let origin = Origin::echo().await.unwrap();
        let target = origin.addr().to_string();
        let forwarding = tokio::spawn(async move { tunnel.forward_to(target).await });
        assert_eq!(ask(public, b"in one process").await.unwrap(), b"in one process");
        forwarding.abort();
    })
    .await;
}
