//! `tunnel watch --requests`, of a service whose requests are made up.

use std::{sync::Arc, time::Duration, time::SystemTime};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, PublicAddress, RequestEnded, StreamEnd, TunnelBackend, TunnelError, TunnelEvent,
    TunnelEvents, TunnelUri, WatchFilter, What,
};

use crate::rig::{run, serve};

/// A service with one tunnel, which has had a request.
struct Asked;

#[async_trait]
impl TunnelBackend for Asked {
    async fn open_tunnel(&self, _: &Caller, _: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        Err(TunnelError::Unsupported { call: "OpenTunnel" })
    }

    async fn get_tunnel_address(&self, _: &Caller, _: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        Err(TunnelError::NotFound)
    }

    async fn watch_tunnels(&self, _: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let request = RequestEnded {
            client: ([192, 0, 2, 7], 1234).into(),
            method: "GET".to_owned(),
            host: "blog.localhost".to_owned(),
            path: "/a\x1b[2Jb".to_owned(),
            status: Some(404),
            end: StreamEnd::Finished,
            bytes_to_agent: 0,
            bytes_to_client: 1200,
            first_byte: Some(Duration::from_millis(3)),
            duration: Duration::from_millis(4),
        };
        let requests = [What::RequestEnded(Box::new(request)), What::RequestsMissed { missed: 7 }];
        let wanted = requests.into_iter().take(if filter.requests { 2 } else { 0 });
        let event = |what| Ok(TunnelEvent { time: SystemTime::UNIX_EPOCH, tunnel: "t-1".parse().ok(), what });
        Ok(stream::iter([What::Ready].into_iter().chain(wanted).map(event)).boxed())
    }
}

async fn watch(args: &[&str]) -> Vec<String> {
    let url = serve(Arc::new(Asked)).await;
    let ended = run(&[&["watch", "--server", &url], args].concat()).await;
    ended.stdout.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn each_request_is_a_line_where_that_is_wanted() {
    let lines = watch(&["--requests"]).await;
    assert_eq!(lines[1], "1970-01-01T00:00:00Z  t-1  404 GET blog.localhost /a?[2Jb 4.0 ms, 1.2 kB out");
    assert_eq!(lines[2], "1970-01-01T00:00:00Z  t-1  7 requests left out, because they were not read in time");
    assert_eq!(watch(&[]).await.len(), 1);
}

#[tokio::test]
async fn output_json_has_all_that_is_known_of_a_request() {
    let lines = watch(&["--requests", "--output", "json"]).await;
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:00Z",
        "id": "t-1",
        "event": "request_ended",
        "client": "192.0.2.7:1234",
        "method": "GET",
        "host": "blog.localhost",
        "path": "/a\u{1b}[2Jb",
        "status": 404,
        "end": "finished",
        "bytes_to_agent": 0,
        "bytes_to_client": 1200,
        "first_byte_seconds": 0.003,
        "seconds": 0.004,
    });
    assert_eq!(json(&lines[1]), expected);
    let missed = json(&lines[2]);
    assert_eq!((&missed["event"], &missed["missed"]), (&"requests_missed".into(), &7.into()));
}
