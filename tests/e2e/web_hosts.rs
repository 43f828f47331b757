//! Each request goes where its host says, whatever came on its connection before, and the agent is told who asks.

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode},
    routing::any,
};
use tokio::io::AsyncWriteExt;
use tunnel_api::rpc::v1::{ListTunnelsRequest, OpenTunnelRequest};
use tunnel_tests::{
    limit::within,
    server::{rpc, server, server_with},
    web::{Http2, Way, answer_to, get, hear_answer, say, serve, site},
};

each_way! {
    a_kept_alive_connection_has_each_request_routed_on_its_own
    an_http_2_connection_has_each_request_routed_on_its_own
    a_tunnels_host_is_the_tunnels_whatever_the_path
    the_agent_is_told_who_asks_and_not_what_they_say_of_themselves
    an_origin_that_is_down_is_said_to_be
    a_tunnel_without_an_agent_is_said_to_be_so
    a_client_that_a_tunnel_is_not_for_gets_a_page
    a_proxy_of_ours_may_say_for_whom_it_asks
}

/// Says who it is and what it was asked.
fn named(name: &'static str) -> Router {
    Router::new()
        .fallback(any(async move |request: Request| format!("{name} {} {}", request.method(), request.uri().path())))
}

async fn a_kept_alive_connection_has_each_request_routed_on_its_own(way: Way) {
    let server = server().await;
    let blog = site(&server, way, "http://blog", named("blog")).await;
    let shop = site(&server, way, "http://shop", named("shop")).await;
    let mut client = say(&server, "").await.unwrap();
    for (host, path, expected) in [
        (&*blog.host, "/1", "blog GET /1"),
        (&shop.host, "/2", "shop GET /2"),
        ("BLOG.localhost.:80", "/3", "blog GET /3"),
        (&shop.host, "/4", "shop GET /4"),
        (&blog.host, "/5", "blog GET /5"),
    ] {
        client.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let (head, body) = hear_answer(&mut client).await.unwrap();
        assert_eq!(body, expected, "{head}");
    }
    // What is the server's own is so on the same connection, too.
    client.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    let (head, body) = hear_answer(&mut client).await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 ") && !body.starts_with("blog") && !body.starts_with("shop"),
        "{head}{body}"
    );
}

async fn an_http_2_connection_has_each_request_routed_on_its_own(way: Way) {
    let server = server().await;
    let _blog = site(&server, way, "http://blog", named("blog")).await;
    let _shop = site(&server, way, "http://shop", named("shop")).await;
    let mut client = Http2::connect(server.addr()).await;
    for (url, expected) in [
        ("http://blog.localhost/1", "blog GET /1"),
        ("http://shop.localhost:8010/2", "shop GET /2"),
        ("http://Blog.localhost/3", "blog GET /3"),
    ] {
        assert_eq!(client.get(url).await, (200, expected.to_owned()));
    }
    assert_eq!(client.get("http://nobody.localhost/").await.0, 404);
}

async fn a_tunnels_host_is_the_tunnels_whatever_the_path(way: Way) {
    let server = server().await;
    let blog = site(&server, way, "http://blog", named("blog")).await;
    for path in ["/tunnel.v1.Tunnel/ListTunnels", "/.well-known/ptth/x/", "/grpc.health.v1.Health/Check"] {
        let answer = answer_to(&server, &get(&blog.host, path)).await.unwrap();
        assert!(answer.ends_with(&format!("blog GET {path}")), "{answer}");
    }
    let whole = format!("GET http://{0}/whole HTTP/1.1\r\nhost: {0}\r\nconnection: close\r\n\r\n", blog.host);
    assert!(answer_to(&server, &whole).await.unwrap().ends_with("blog GET /whole"));
    // And on other hosts the RPC answers.
    rpc(&server).await.list_tunnels(ListTunnelsRequest::default()).await.expect("an answer");
}

async fn the_agent_is_told_who_asks_and_not_what_they_say_of_themselves(way: Way) {
    let server = server().await;
    let shown = any(async |headers: HeaderMap| {
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?"))).collect();
        shown.sort();
        shown.join("\n")
    });
    let blog = site(&server, way, "http://blog", Router::new().fallback(shown)).await;
    let request = "GET / HTTP/1.1\r\nhost: blog.localhost:99\r\nforwarded: for=1.2.3.4\r\nx-forwarded-for: 1.2.3.4\r\n\
                   x-forwarded-proto: https\r\nconnection: close, x-mine\r\nx-mine: 1\r\nkeep-alive: 5\r\nte: gzip\r\n\
                   proxy-authorization: x\r\nx-own: kept\r\n\r\n";
    let mut client = say(&server, request).await.unwrap();
    let own = client.local_addr().unwrap();
    let (_, told) = hear_answer(&mut client).await.unwrap();
    for expected in [
        format!("forwarded: for=\"{own}\";by=\"{}\";host=\"blog.localhost:99\";proto=http", server.addr()),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-host: blog.localhost:99".to_owned(),
        "x-forwarded-port: 99".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        "x-own: kept".to_owned(),
    ] {
        assert!(told.lines().any(|line| line == expected), "{expected} is not in\n{told}");
    }
    for gone in ["x-mine", "keep-alive", "te:", "proxy-authorization", "connection", "1.2.3.4", "via"] {
        assert!(!told.contains(gone), "{gone} is in\n{told}");
    }
    drop(blog);
}

async fn an_origin_that_is_down_is_said_to_be(way: Way) {
    let server = server().await;
    // It hangs up before it answers.
    let app = Router::new().fallback(any(async || -> StatusCode { panic!("down") }));
    let blog = site(&server, way, "http://blog", app).await;
    let answer = answer_to(&server, &get(&blog.host, "/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("tunnel-error: no-answer"), "{answer}");
}

async fn a_tunnel_without_an_agent_is_said_to_be_so(way: Way) {
    let server = server_with(|config| {
        tunnel_tests::web::client_wait(config, std::time::Duration::from_millis(50));
    })
    .await;
    let opened = rpc(&server).await.open_tunnel(way.request("http://blog")).await.unwrap().into_inner();
    for (accept, media) in [
        ("text/html", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("*/*", "text/plain; charset=utf-8"),
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nhost: blog.localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
        let answer = answer_to(&server, &request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: "), "{answer}");
        assert!(
            answer.contains(&format!("content-type: {media}")) && answer.contains("tunnel-error: no-agent"),
            "{answer}"
        );
    }
    let request = "HEAD / HTTP/1.1\r\nhost: blog.localhost\r\nconnection: close\r\n\r\n";
    let answer = answer_to(&server, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    // And it is there when one comes.
    let blog = serve(way, opened, named("blog")).await;
    assert!(answer_to(&server, &get(&blog.host, "/")).await.unwrap().ends_with("blog GET /"));
}

async fn a_client_that_a_tunnel_is_not_for_gets_a_page(way: Way) {
    let server = server().await;
    let request = OpenTunnelRequest { client_deny: vec!["127.0.0.0/8".to_owned()], ..way.request("http://blog") };
    let opened = rpc(&server).await.open_tunnel(request).await.unwrap().into_inner();
    let blog = serve(way, opened, named("blog")).await;
    let answer = answer_to(&server, &get(&blog.host, "/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("tunnel-error: kept-out"), "{answer}");
}

#[tokio::test]
async fn a_host_in_the_domain_that_is_nobodys_gets_a_page_whatever_the_path() {
    within(async {
        let server = server().await;
        for path in ["/", "/tunnel.v1.Tunnel/ListTunnels", "/.well-known/ptth/x/"] {
            let answer = answer_to(&server, &get("nobody.localhost", path)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("tunnel-error: unknown-host"), "{answer}");
        }
    })
    .await;
}

async fn a_proxy_of_ours_may_say_for_whom_it_asks(way: Way) {
    let server = server_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.insecure = true;
    })
    .await;
    let shown = any(async |headers: HeaderMap| {
        format!("{} {}", headers["x-forwarded-for"].to_str().unwrap(), headers["forwarded"].to_str().unwrap())
    });
    let blog = site(&server, way, "http://blog", Router::new().fallback(shown)).await;
    for (client, told) in [("192.0.2.1", "192.0.2.1:0"), ("2001:db8::1", "[2001:db8::1]:0")] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {}\r\nforwarded: for=1.2.3.4\r\nx-forwarded-for: {client}\r\nconnection: close\r\n\r\n",
            blog.host
        );
        let answer = answer_to(&server, &request).await.unwrap();
        assert!(answer.contains(&format!("{client}, 127.0.0.1 for=\"{told}\";by=")), "{answer}");
    }
}
