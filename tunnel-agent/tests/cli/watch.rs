use tunnel_api::{Caller, TunnelRef};

use crate::rig::{open, run, service, start, wire};

#[tokio::test]
async fn each_event_is_a_line_until_ctrl_c() {
    let (backend, url) = service().await;
    let db = open(&backend, "db").await;
    let mut running = start(&["watch", "--server", &url]).await;
    assert!(running.first.contains(&format!("{}  is open: db at {}", db.id, db.address)), "{}", running.first);
    assert!(running.line().await.contains("ready"));

    let web = open(&backend, "web").await;
    let line = running.line().await;
    assert!(line.contains(&format!("{}  opened: web at {}", web.id, web.address)), "{line}");
    backend.close_tunnel(&Caller::embedded(), &TunnelRef::Id(web.id.clone())).await.unwrap();
    let line = running.line().await;
    assert!(line.contains(&format!("{}  closed: on request", web.id)), "{line}");

    running.signal("-INT").await;
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", ""));
}

#[tokio::test]
async fn output_json_is_an_object_a_line() {
    let (backend, url) = service().await;
    let db = open(&backend, "db").await;
    let mut running = start(&["watch", "--server", &url, "--output", "json"]).await;
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let present = json(&running.first);
    assert_eq!((&present["event"], &present["id"]), (&"present".into(), &db.id.as_str().into()));
    assert_eq!(present["tunnel"]["addresses"][0], db.address.to_string());
    assert_eq!(json(&running.line().await)["event"], "ready");

    backend.close_tunnel(&Caller::embedded(), &TunnelRef::Id(db.id.clone())).await.unwrap();
    let closed = json(&running.line().await);
    assert_eq!((&closed["event"], &closed["reason"]), (&"closed".into(), &"requested".into()));
}

#[tokio::test]
async fn a_tunnel_that_is_watched_by_its_id_ends_the_watch_when_it_closes() {
    let (backend, url) = service().await;
    let (db, _other) = (open(&backend, "db").await, open(&backend, "other").await);
    let mut running = start(&["watch", db.id.as_str(), "--server", &url]).await;
    assert!(running.line().await.contains("ready"));
    backend.close_tunnel(&Caller::embedded(), &TunnelRef::Id(db.id.clone())).await.unwrap();
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{ended:?}");
}

#[tokio::test]
async fn a_name_may_be_watched_before_it_is_open() {
    let (backend, url) = service().await;
    let mut running = start(&["watch", "db", "--server", &url]).await;
    assert!(running.told("db").await.contains("no tunnel named db is open; waiting for one"));
    open(&backend, "other").await;
    let db = open(&backend, "db").await;
    assert!(running.line().await.contains(&format!("{}  opened", db.id)));
}

#[tokio::test]
async fn an_id_that_is_gone_is_said_to_be_none() {
    let (_backend, url) = service().await;
    let mut running = start(&["watch", "t-0123456789abcdef", "--server", &url]).await;
    assert!(running.told("t-0123456789abcdef").await.contains("no tunnel has the id t-0123456789abcdef"));
}

#[tokio::test]
async fn it_ends_with_69_when_the_server_goes_away() {
    let (_backend, url) = service().await;
    let (url, wire) = wire(&url).await;
    let running = start(&["watch", "--server", &url]).await;
    wire.abort();
    let ended = running.end().await;
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains("the tunnel server went away"), "{}", ended.stderr);
}

#[tokio::test]
async fn without_a_server_it_ends_with_69() {
    let (_held, nowhere) = crate::service::closed_port();
    for command in ["watch", "list"] {
        assert_eq!(run(&[command, "--server", &nowhere.to_string()]).await.code, Some(69));
    }
}
