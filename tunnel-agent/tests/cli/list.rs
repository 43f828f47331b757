use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use tokio::time::timeout;
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelInfo, TunnelState,
    TunnelUri,
};

use crate::rig::{Ended, LIMIT, is_online, open, run, serve, service, start, tunnel};

#[tokio::test]
async fn tunnels_are_a_table_with_a_head_and_a_row_each() {
    let (backend, url) = service().await;
    let opened = open(&backend, "waits").await;
    let _running = start(&["tcp", "1", "--server", &url]).await;
    is_online(&backend).await;

    let ended = run(&["list", "--server", &url]).await;

    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ended.stdout);
    assert!(lines[0].starts_with("NAME") && lines[0].ends_with("AGE"), "{}", ended.stdout);
    let column = lines[0].find("ADDRESS").unwrap();
    let waits = lines.iter().find(|line| line.starts_with("waits ")).expect("its row");
    assert!(waits.contains(opened.id.as_str()) && waits.contains("waiting, closes in 23h"), "{waits}");
    assert!(waits[column..].starts_with(&opened.address.to_string()), "{waits}");
    let online = lines.iter().find(|line| line.starts_with("- ")).expect("its row");
    assert!(online.contains("online"), "{online}");
}

#[tokio::test]
async fn output_json_is_an_object_a_line() {
    let (backend, url) = service().await;
    let opened = [open(&backend, "one").await, open(&backend, "two").await];
    let ended = run(&["ls", "--server", &url, "--output", "json"]).await;
    let lines: Vec<serde_json::Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((ended.code, lines.len()), (Some(0), 2));
    for (opened, name) in opened.iter().zip(["one", "two"]) {
        let line = lines.iter().find(|line| line["name"] == name).expect("its line");
        assert_eq!(line["id"], opened.id.as_str());
        assert_eq!(line["addresses"], serde_json::json!([opened.address.to_string()]));
        assert_eq!((&line["state"], &line["streams"]), (&"waiting".into(), &0.into()));
        assert!(!line.to_string().contains(opened.uri.expose()), "{line}");
    }
}

#[tokio::test]
async fn where_nothing_is_open_stdout_is_empty_and_stderr_says_so() {
    let (_backend, url) = service().await;
    for output in ["text", "json"] {
        let ended = run(&["list", "--server", &url, "--output", output]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
        assert!(ended.stderr.contains("no tunnels are open"), "{}", ended.stderr);
    }
}

/// So many tunnels, with ids that ascend.
struct Many(usize);

#[async_trait]
impl TunnelBackend for Many {
    async fn open_tunnel(&self, _: &Caller, _: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        Err(TunnelError::NotFound)
    }

    async fn get_tunnel_address(&self, _: &Caller, _: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        Err(TunnelError::NotFound)
    }

    async fn list_tunnels(&self, _: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        let all = (0..self.0).map(info).filter(|info| page.after.as_ref().is_none_or(|after| info.id > *after));
        Ok(all.take(page.limit).collect())
    }
}

fn info(number: usize) -> TunnelInfo {
    TunnelInfo {
        id: format!("t-{number:016x}").parse().expect("an id"),
        name: None,
        addresses: Vec::new(),
        backend: "many\x1b[2J".to_owned(),
        state: TunnelState::Online,
        sessions: 0,
        streams: 0,
        bytes_to_agent: 0,
        bytes_to_client: 0,
        strangers: 0,
        refused_clients: 0,
        open_time: SystemTime::now(),
        expire_time: None,
        labels: Default::default(),
    }
}

#[tokio::test]
async fn all_pages_are_listed_and_nothing_in_them_drives_the_terminal() {
    let url = serve(Arc::new(Many(2 * Page::MAX))).await;
    let ended = run(&["list", "--server", &url]).await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 2 * Page::MAX + 1), "{}", ended.stderr);
    assert!(!ended.stdout.contains('\x1b'));
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let url = serve(Arc::new(Many(2 * Page::MAX))).await;
    let mut child = tunnel(&["list", "--server", &url]).spawn().expect("the command starts");
    drop(child.stdout.take());
    let ended: Ended = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap().into();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
