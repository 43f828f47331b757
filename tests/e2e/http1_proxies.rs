//! Where proxies let nothing through but HTTP/1.1, agents and callers are served all the same.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tunnel_agent::{Agent, Tunnel};
use tunnel_api::{
    Caller, OpenTunnel, Page, TunnelBackend, TunnelError, TunnelEvents, WatchFilter, What,
    rpc::{Connect, RemoteBackend, Token},
};
use tunnel_server::{Config, Running, config::HostPort};
use tunnel_tests::{
    certificates::Certificates,
    client::at,
    credentials::CredentialsFile,
    http1_proxy::{Http1Proxy, Http2},
    limit::within,
    server::server_with,
};

/// A server that is reached through such a proxy, and the proxy.
async fn behind(http2: Http2) -> (Running, Http1Proxy) {
    behind_with(http2, |_| {}).await
}

async fn behind_with(http2: Http2, change: impl FnOnce(&mut Config)) -> (Running, Http1Proxy) {
    let mut proxy = Http1Proxy::new(http2).await;
    let server = server_with(|config| {
        advertise(&proxy, config);
        change(config);
    })
    .await;
    proxy.serve(server.addr());
    (server, proxy)
}

/// Agents dial the proxy.
fn advertise(proxy: &Http1Proxy, config: &mut Config) {
    let port = Some(proxy.addr().port());
    config.advertise.agents = Some(HostPort { host: "127.0.0.1".parse().unwrap(), port });
    config.default_backend = Some("mux".to_owned());
}

fn url(proxy: &Http1Proxy) -> String {
    format!("http://{}", proxy.addr())
}

async fn count(remote: &RemoteBackend) -> Result<usize, TunnelError> {
    Ok(remote.list_tunnels(&Caller::embedded(), &Page { after: None, limit: 10 }).await?.len())
}

async fn watch(remote: &RemoteBackend) -> TunnelEvents {
    remote.watch_tunnels(&Caller::embedded(), &WatchFilter::default()).await.expect("a watch")
}

async fn next(events: &mut TunnelEvents) -> Option<Result<What, TunnelError>> {
    let event = timeout(Duration::from_secs(10), events.next()).await.expect("an event in time");
    event.map(|event| event.map(|event| event.what))
}

async fn serves_a_client(agent: &Agent) {
    let mut tunnel = agent.open(Tunnel::tcp()).await.expect("a tunnel");
    let mut client = TcpStream::connect(at(&tunnel.address().to_string())).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    let mut stream = tunnel.accept().await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    stream.write_all(b"pong").await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");
}

#[tokio::test]
async fn an_agent_behind_a_proxy_that_refuses_http_2_serves_its_clients() {
    within(async {
        for http2 in [Http2::Refuse, Http2::HangUp] {
            let (_server, proxy) = behind(http2).await;
            serves_a_client(&Agent::connect(&url(&proxy)).await.unwrap()).await;
            assert!(proxy.began_by_http2() > 0, "{http2:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_behind_a_proxy_that_ends_tls_and_has_no_http_2_serves_its_clients() {
    within(async {
        for http2 in [Http2::Refuse, Http2::Translate] {
            let certificates = Certificates::new();
            let mut proxy = Http1Proxy::new(http2).await;
            let server = server_with(|config| {
                advertise(&proxy, config);
                config.insecure = true;
                config.tls_terminated_by = vec!["127.0.0.0/8".parse().unwrap()];
            })
            .await;
            proxy.serve_by_tls(server.addr(), &certificates);
            let url = format!("https://{}", proxy.addr());
            let agent = Agent::builder(url).trust(certificates.trust()).connect().await.unwrap();
            serves_a_client(&agent).await;
            // By ALPN it was clear; or else by the server's answer.
            assert_eq!(proxy.began_by_http2() > 0, http2 == Http2::Translate, "{http2:?}");
        }
    })
    .await;
}

/// The proxy speaks HTTP/2, and the server cannot tell its caller what happened but by a status.
#[tokio::test]
async fn a_call_that_loses_its_http_2_on_the_way_is_made_again_and_only_once() {
    within(async {
        let (_server, proxy) = behind(Http2::Translate).await;
        let remote = RemoteBackend::connect(&url(&proxy)).await.unwrap();
        remote.open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
        assert_eq!(count(&remote).await.unwrap(), 1);
    })
    .await;
}

/// Also where the refusal comes before the first call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_worked_is_remembered() {
    within(async {
        for http2 in [Http2::Refuse, Http2::HangUp].repeat(10) {
            let (_server, proxy) = behind(http2).await;
            let lazy = RemoteBackend::connect_lazy(&url(&proxy)).unwrap();
            let eager = RemoteBackend::connect(&url(&proxy)).await.unwrap();
            for _ in 0..10 {
                count(&lazy).await.unwrap();
                count(&eager).await.unwrap();
            }
            assert_eq!(proxy.began_by_http2(), 2, "{http2:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn where_http_2_gets_through_later_it_is_spoken_again_and_the_other_way_round() {
    within(async {
        let (_server, proxy) = behind(Http2::Refuse).await;
        let remote = RemoteBackend::connect(&url(&proxy)).await.unwrap();
        count(&remote).await.unwrap();
        for http2 in [Http2::Pass, Http2::HangUp, Http2::Pass] {
            proxy.becomes(http2);
            proxy.has_connections(0).await;
            let before = proxy.began_by_http2();
            // What was under way when it was cut may fail.
            while count(&remote).await.is_err() {}
            for _ in 0..5 {
                count(&remote).await.unwrap();
            }
            assert_eq!(proxy.began_by_http2(), before + 1, "{http2:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn refusals_say_as_much_as_by_http_2() {
    within(async {
        let credentials = CredentialsFile::new();
        let token = credentials.add("alice");
        let (server, proxy) = behind_with(Http2::Refuse, |config| config.credentials = Some(credentials.path())).await;
        let to = |url: String, token: &str| Connect::to(url).token(Token::value(token).unwrap()).connect();
        let (straight, through) = (server.url(), url(&proxy));
        let caller = Caller::embedded();
        let wrong_port = OpenTunnel { address: "tcp://:1".parse().unwrap(), ..OpenTunnel::default() };
        let wrong_backend = OpenTunnel { backend: Some("none".to_owned()), ..OpenTunnel::default() };
        let stranger = "tcp://127.0.0.1:1".parse().unwrap();
        let mut told = Vec::new();
        for url in [straight, through] {
            let remote = to(url.clone(), token.expose()).await.unwrap();
            let nobody = to(url, "wrong").await.unwrap();
            told.push([
                remote.open_tunnel(&caller, wrong_port.clone()).await.unwrap_err(),
                remote.open_tunnel(&caller, wrong_backend.clone()).await.unwrap_err(),
                remote.get_tunnel_address(&caller, &stranger).await.unwrap_err(),
                nobody.open_tunnel(&caller, OpenTunnel::default()).await.unwrap_err(),
            ]);
            remote.open_tunnel(&caller, OpenTunnel::default()).await.unwrap();
        }
        let [by_http2, by_grpc_web] = &told[..] else { panic!("{told:?}") };
        assert_eq!(format!("{by_http2:?}"), format!("{by_grpc_web:?}"));
        assert!(matches!(by_grpc_web[0], TunnelError::NotGranted { .. }), "{told:?}");
    })
    .await;
}

#[tokio::test]
async fn events_come_at_once_and_a_watch_that_is_dropped_is_over_for_the_server_too() {
    within(async {
        let (server, proxy) = behind(Http2::Refuse).await;
        let remote = RemoteBackend::connect(&url(&proxy)).await.unwrap();
        let mut events = watch(&remote).await;
        assert_eq!(next(&mut events).await.unwrap().unwrap(), What::Ready);
        let name = Some("blog".parse().unwrap());
        server.backend().open_tunnel(&Caller::embedded(), OpenTunnel { name, ..OpenTunnel::default() }).await.unwrap();
        assert!(matches!(next(&mut events).await, Some(Ok(What::Opened(_)))));
        drop(events);
        proxy.has_connections(0).await;
    })
    .await;
}

/// Whoever cuts it, and however politely.
#[tokio::test]
async fn a_watch_that_is_cut_does_not_look_complete() {
    within(async {
        let (_server, proxy) = behind(Http2::Refuse).await;
        let remote = RemoteBackend::connect(&url(&proxy)).await.unwrap();
        let mut events = watch(&remote).await;
        assert_eq!(next(&mut events).await.unwrap().unwrap(), What::Ready);
        proxy.becomes(Http2::HangUp);
        let end = next(&mut events).await;
        assert!(matches!(end, Some(Err(TunnelError::Unavailable { .. }))), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_ends_with_the_servers_own_words_when_it_drains() {
    within(async {
        let (server, proxy) = behind(Http2::Refuse).await;
        let remote = RemoteBackend::connect(&url(&proxy)).await.unwrap();
        let mut events = watch(&remote).await;
        assert_eq!(next(&mut events).await.unwrap().unwrap(), What::Ready);
        server.shutdown().await;
        let end = next(&mut events).await;
        let Some(Err(TunnelError::Unavailable { why, .. })) = &end else { panic!("{end:?}") };
        assert!(!why.contains("cut") && !why.contains("transport"), "{why}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_are_all_answered() {
    within(async {
        for http2 in [Http2::Refuse, Http2::HangUp, Http2::Translate] {
            let (_server, proxy) = behind(http2).await;
            let remote = RemoteBackend::connect_lazy(&url(&proxy)).unwrap();
            let calls = (0..50).map(|_| count(&remote));
            for answer in futures_util::future::join_all(calls).await {
                answer.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_no_tunnel_server_is_told_as_such() {
    within(async {
        let page = tunnel_tests::origin::Origin::hello("hello").await.unwrap();
        let remote = RemoteBackend::connect(&format!("http://{}", page.addr())).await.unwrap();
        let refused = format!("{:#}", anyhow::Error::from(count(&remote).await.unwrap_err()));
        assert!(refused.contains("no tunnel server") && refused.contains("200"), "{refused}");
    })
    .await;
}
