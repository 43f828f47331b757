//! Names of web services: who gets them, who keeps them, and what is no name.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::any};
use tonic::Code;
use tunnel_api::rpc::v1::{CloseTunnelRequest, OpenTunnelRequest, close_tunnel_request::Tunnel};
use tunnel_server::Config;
use tunnel_tests::{
    credentials::{CredentialsFile, rpc_as},
    limit::within,
    server::{ports, rpc, server, server_with},
    web::{Site, Way, answer_to, get, host_of, serve, site},
};

each_way! {
    a_named_tunnel_keeps_its_host_over_restarts_of_its_agent_and_of_the_server
    an_address_is_a_url
}

fn fine() -> Router {
    Router::new().fallback(any(async || "fine"))
}

async fn is_served(server: &tunnel_server::Running, site: &Site) {
    let answer = answer_to(server, &get(&site.host, "/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
}

async fn a_named_tunnel_keeps_its_host_over_restarts_of_its_agent_and_of_the_server(way: Way) {
    let (state, port) = (tempfile::tempdir().unwrap(), *ports(1).start());
    let start = async || {
        server_with(|config: &mut Config| {
            config.listen = SocketAddr::from(([127, 0, 0, 1], port));
            config.state = Some(state.path().to_owned());
            config.drain = Duration::from_secs(1);
        })
        .await
    };
    let request = OpenTunnelRequest { name: "blog".to_owned(), ..way.request("http://blog") };
    let first = start().await;
    let opened = rpc(&first).await.open_tunnel(request.clone()).await.unwrap().into_inner();
    let blog = serve(way, opened.clone(), fine()).await;
    is_served(&first, &blog).await;
    // The agent goes and comes back.
    drop(blog);
    let again = rpc(&first).await.open_tunnel(request.clone()).await.unwrap().into_inner();
    assert_eq!((&again.id, &again.address), (&opened.id, &opened.address));
    let blog = serve(way, again, fine()).await;
    is_served(&first, &blog).await;
    drop(blog);
    first.shutdown().await;
    // And so does the server.
    let second = start().await;
    let again = rpc(&second).await.open_tunnel(request).await.unwrap().into_inner();
    assert_eq!((&again.id, &again.address), (&opened.id, &opened.address));
    let blog = serve(way, again, fine()).await;
    is_served(&second, &blog).await;
}

async fn an_address_is_a_url(way: Way) {
    let server = server().await;
    let blog = site(&server, way, "http://blog", fine()).await;
    assert_eq!(blog.opened.address, format!("http://blog.localhost:{}/", server.addr().port()));
    is_served(&server, &blog).await;
    // One that nobody has asked for has a name, too.
    let any = site(&server, way, "http://", fine()).await;
    assert!(any.host.ends_with(".localhost") && any.host.len() > 20, "{any:?}");
    is_served(&server, &any).await;
    // And a whole host name is one.
    let own = site(&server, way, "http://Blog.Example.org", fine()).await;
    assert_eq!(own.host, "blog.example.org");
    is_served(&server, &own).await;
}

#[tokio::test]
async fn a_host_that_has_a_tunnel_is_nobody_elses() {
    within(async {
        let server = server().await;
        let _blog = site(&server, Way::Requests, "http://blog", fine()).await;
        for address in ["http://blog", "http://BLOG.localhost", "tls://blog"] {
            let request = OpenTunnelRequest {
                backend: "mux".to_owned(),
                address: address.to_owned(),
                ..OpenTunnelRequest::default()
            };
            let refused = rpc(&server).await.open_tunnel(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::AlreadyExists, "{address}: {refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_was_given_up_is_kept_for_who_had_it() {
    within(async {
        let file = CredentialsFile::new();
        let [alice, bob] = ["alice", "bob"].map(|owner| file.add_with(owner, |new| new.hosts = vec!["*".to_owned()]));
        let server = server_with(|config| config.credentials = Some(file.path())).await;
        let (mut alice, mut bob) = (rpc_as(&server, &alice).await, rpc_as(&server, &bob).await);
        let request = Way::Requests.request("http://blog");
        let opened = alice.open_tunnel(request.clone()).await.unwrap().into_inner();
        let refused = bob.open_tunnel(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        alice.close_tunnel(CloseTunnelRequest { tunnel: Some(Tunnel::Id(opened.id)) }).await.unwrap();
        let refused = bob.open_tunnel(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        let again = alice.open_tunnel(request).await.unwrap().into_inner();
        assert_eq!(host_of(&again.address), "blog.localhost");
    })
    .await;
}

#[tokio::test]
async fn what_is_the_servers_own_is_no_name_for_a_tunnel() {
    within(async {
        let server = server_with(|config| {
            config.advertise.clients = Some("www.localhost".parse().unwrap());
        })
        .await;
        for address in [
            "http://localhost",
            "http://127.0.0.1",
            "http://[::1]",
            "http://www",
            "http://www.localhost",
            "http://a..b",
        ] {
            let refused = rpc(&server).await.open_tunnel(Way::Requests.request(address)).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{address}: {refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_wire_cannot_carry_is_refused() {
    within(async {
        let server = server().await;
        let requests = |backend: &str, address: &str| OpenTunnelRequest {
            backend: backend.to_owned(),
            address: address.to_owned(),
            ..Way::Requests.request("")
        };
        for request in [requests("tcp", "http://blog"), requests("mux", "tcp://"), requests("mux", "tls://db")] {
            let refused = rpc(&server).await.open_tunnel(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        }
    })
    .await;
}
