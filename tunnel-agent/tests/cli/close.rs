use crate::rig::{open, run, run_with_stdin, service, tunnels};

#[tokio::test]
async fn a_tunnel_is_closed_by_its_name_its_id_or_its_uri_on_stdin() {
    let (backend, url) = service().await;
    let args = |tunnel| ["close", tunnel, "--server", &url];

    open(&backend, "db").await;
    let ended = run(&args("db")).await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", "closed db\n"));
    assert!(tunnels(&backend).await.is_empty());

    let opened = open(&backend, "db").await;
    assert_eq!(run(&args(opened.id.as_str())).await.code, Some(0));
    assert!(tunnels(&backend).await.is_empty());

    let opened = open(&backend, "db").await;
    let ended = run_with_stdin(&args("-"), format!("{}\n", opened.uri.expose()).as_bytes()).await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", "closed the tunnel\n"));
    assert!(tunnels(&backend).await.is_empty());
}

#[tokio::test]
async fn a_name_that_looks_like_an_id_is_a_name_too() {
    let (backend, url) = service().await;
    open(&backend, "t-0123456789abcdef").await;
    assert_eq!(run(&["close", "t-0123456789abcdef", "--server", &url]).await.code, Some(0));
    assert!(tunnels(&backend).await.is_empty());
}

#[tokio::test]
async fn a_uri_in_the_arguments_is_refused_without_being_repeated() {
    let (backend, url) = service().await;
    let opened = open(&backend, "db").await;
    let ended = run(&["close", opened.uri.expose(), "--server", &url]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert!(ended.stderr.contains("tunnel close - <"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(opened.uri.expose()), "{}", ended.stderr);
    assert_eq!(tunnels(&backend).await.len(), 1);
}

#[tokio::test]
async fn what_is_not_open_ends_with_1_and_says_where_to_look() {
    let (_backend, url) = service().await;
    for tunnel in ["db", "t-0123456789abcdef"] {
        let ended = run(&["close", tunnel, "--server", &url]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(tunnel) && ended.stderr.contains("tunnel list"), "{}", ended.stderr);
    }
    let ended = run_with_stdin(&["close", "-", "--server", &url], b"tcp://127.0.0.1:1").await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
}

#[tokio::test]
async fn what_is_no_tunnel_at_all_is_wrong_usage() {
    assert_eq!(run(&["close", "no such name"]).await.code, Some(2));
    let endless = vec![b'x'; 1 << 20];
    for stdin in [&b""[..], b"\n", b"secret", b"\xff\xfe", &endless] {
        let ended = run_with_stdin(&["close", "-"], stdin).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    }
}
