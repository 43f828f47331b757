use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tunnel_api::{Caller, TunnelRef};

use crate::{
    rig::{Ended, LIMIT, is_online, run, service, start, start_unheard, tunnel, tunnels},
    service::{SocketFile, ask, closed_port, echo_once, echo_once_at, echo_once_on},
};

#[tokio::test]
async fn stdout_is_the_address_alone_and_clients_are_forwarded_until_ctrl_c_which_closes_the_tunnel() {
    let (backend, url) = service().await;
    let (target, echo) = echo_once().await;

    let running = start(&["tcp", &target.port().to_string(), "--server", &url]).await;
    let open = tunnels(&backend).await;
    assert_eq!(running.first, format!("{}\n", open[0].addresses[0]));

    assert_eq!(ask(running.public(), b"through").await.0.unwrap(), b"through");
    echo.await.unwrap().unwrap();

    running.signal("-INT").await;
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    assert!(tunnels(&backend).await.is_empty());
}

#[tokio::test]
async fn stderr_has_address_and_target_then_plain_lines_and_a_summary() {
    let (_backend, url) = service().await;
    let (target, _echo) = echo_once().await;
    let mut running = start(&["tcp", &target.to_string(), "--server", &url]).await;
    let told = running.told("online").await;
    assert!(told.starts_with(&format!("{} -> {target}\n", running.first.trim_end())), "{told}");
    ask(running.public(), b"12345").await.0.unwrap();

    running.signal("-INT").await;
    let ended = running.end().await;

    assert!(ended.stderr.contains("1 client, 5 B in, 5 B out"), "{}", ended.stderr);
    assert!(!format!("{told}{}", ended.stderr).contains(['\x1b', '\r']), "{ended:?}");
}

#[tokio::test]
async fn quiet_says_nothing_where_all_is_well() {
    let (backend, url) = service().await;
    let running = start(&["-q", "tcp", "1", "--server", &url]).await;
    is_online(&backend).await;
    running.signal("-INT").await;
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let ended = run(&["list", "-q", "--server", &url]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn output_json_is_one_object() {
    let (backend, url) = service().await;
    let args = ["tcp", "localhost:1", "--server", &url, "--output", "json", "--name", "db"];
    let running = start(&args).await;
    let open = &tunnels(&backend).await[0];
    let said: serde_json::Value = serde_json::from_str(&running.first).expect("JSON");
    let expected = serde_json::json!({
        "id": open.id.to_string(),
        "address": open.addresses[0].to_string(),
        "name": "db",
        "target": "localhost:1",
    });
    assert_eq!(said, expected);
    running.signal("-INT").await;
    assert_eq!(running.end().await.stdout, "");
}

#[tokio::test]
async fn the_backend_and_the_labels_reach_the_server() {
    let (backend, url) = service().await;
    let args = ["tcp", "1", "--server", &url, "--backend", "tcp", "--label", "team=web", "--label", "x="];
    let _running = start(&args).await;
    let open = &tunnels(&backend).await[0];
    let labels: Vec<_> = open.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!((open.backend.as_str(), labels), ("tcp", vec!["team=web".to_owned(), "x=".to_owned()]));
}

#[tokio::test]
async fn a_port_that_is_taken_ends_it_with_1_and_it_says_what_to_do() {
    let (_backend, url) = service().await;
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let ended = run(&["tcp", "1", "--server", &url, "--port", &port]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("port {port} is taken")), "{}", ended.stderr);
    assert!(ended.stderr.contains("give another --port"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_local_service_may_be_behind_a_unix_socket() {
    let (_backend, url) = service().await;
    let socket = SocketFile::new("target");
    let echo = echo_once_at(&socket);
    let running = start(&["tcp", &format!("unix:{}", socket.0.display()), "--server", &url]).await;
    assert_eq!(ask(running.public(), b"through").await.0.unwrap(), b"through");
    echo.await.unwrap().unwrap();
}

#[tokio::test]
async fn proxy_protocol_tells_the_local_service_who_the_client_is() {
    let (_backend, url) = service().await;
    let (target, service) = echo_once().await;
    let running = start(&["tcp", &target.to_string(), "--server", &url, "--proxy-protocol"]).await;

    let (_, client) = ask(running.public(), b"hello").await;

    let mut expected = tunnel_backends::proxy::header(client, running.public());
    expected.extend_from_slice(b"hello");
    assert_eq!(service.await.unwrap().unwrap(), expected);
}

#[tokio::test]
async fn a_local_service_that_is_down_is_said_once_and_so_is_its_return() {
    let (_backend, url) = service().await;
    let (held, target) = closed_port();
    let mut running = start(&["tcp", &target.to_string(), "--server", &url]).await;
    for _ in 0..5 {
        assert!(ask(running.public(), b"anybody?").await.0.is_err());
    }
    let _echo = echo_once_on(held.listen(8).unwrap());
    assert_eq!(ask(running.public(), b"anybody?").await.0.unwrap(), b"anybody?");

    let told = running.told("answers again").await;
    assert_eq!(told.matches("is it running there?").count(), 1, "{told}");
    assert!(told.contains(&target.to_string()) && told.contains("refused"), "{told}");
}

/// A truncated answer must not look complete, whether the tunnel is closed or, with a name, left.
#[tokio::test]
async fn ctrl_c_in_the_middle_of_an_answer_is_a_reset_to_the_client() {
    let (_backend, url) = service().await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = origin.local_addr().unwrap().to_string();
    for more in [&[][..], &["--name", "blog"]] {
        let running = start(&[&["tcp", &target, "--server", &url][..], more].concat()).await;
        let mut client = TcpStream::connect(running.public()).await.unwrap();
        let (mut service, _) = origin.accept().await.unwrap();
        service.write_all(b"half an ans").await.unwrap();
        let mut heard = [0; 11];
        timeout(LIMIT, client.read_exact(&mut heard)).await.unwrap().unwrap();

        running.signal("-INT").await;

        assert_eq!(running.end().await.code, Some(0));
        let end = timeout(LIMIT, client.read(&mut heard)).await.unwrap();
        assert!(end.is_err(), "{more:?}: the client saw {end:?}");
        let end = timeout(LIMIT, service.read(&mut heard)).await.unwrap();
        assert!(end.is_err(), "{more:?}: the service saw {end:?}");
    }
}

/// Its kernel closes its sockets: not as if they were complete.
#[tokio::test]
async fn a_kill_in_the_middle_of_an_answer_is_a_reset_to_both_sides() {
    let (_backend, url) = service().await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = start(&["tcp", &origin.local_addr().unwrap().to_string(), "--server", &url]).await;
    let mut client = TcpStream::connect(running.public()).await.unwrap();
    let (mut service, _) = origin.accept().await.unwrap();
    service.write_all(b"half an ans").await.unwrap();
    let mut heard = [0; 11];
    timeout(LIMIT, client.read_exact(&mut heard)).await.unwrap().unwrap();

    running.signal("-KILL").await;

    for side in [&mut client, &mut service] {
        let end = timeout(LIMIT, side.read(&mut heard)).await.unwrap();
        assert!(end.is_err(), "one side saw {end:?}");
    }
}

#[tokio::test]
async fn ctrl_c_need_not_wait_for_a_server_that_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let running = start_unheard(&["tcp", "1", "--server", &server]);
    let (_held, _) = timeout(LIMIT, silent.accept()).await.unwrap().unwrap();
    running.signal("-INT").await;
    // Sooner than it would have given up by itself.
    let ended = timeout(LIMIT / 2, running.end()).await.expect("an end at once");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
}

#[tokio::test]
async fn sigterm_is_ctrl_c() {
    let (backend, url) = service().await;
    let running = start(&["tcp", "127.0.0.1:1", "--server", &url]).await;
    running.signal("-TERM").await;
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    assert!(tunnels(&backend).await.is_empty());
}

#[tokio::test]
async fn a_named_tunnel_stays_when_the_command_goes_and_is_the_same_when_it_comes_back() {
    let (backend, url) = service().await;
    let args = ["tcp", "1", "--server", &url, "--name", "blog"];
    let first = start(&args).await;
    let address = first.first.clone();
    first.signal("-INT").await;
    let ended = first.end().await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("`tunnel close blog` gives it up"), "{}", ended.stderr);
    assert_eq!(tunnels(&backend).await.len(), 1);

    let again = start(&args).await;
    assert_eq!(again.first, address);
}

#[tokio::test]
async fn it_ends_with_1_when_somebody_else_closes_the_tunnel() {
    let (backend, url) = service().await;
    let mut running = start(&["tcp", "1", "--server", &url]).await;
    let id = tunnels(&backend).await[0].id.clone();
    is_online(&backend).await;
    running.told("online").await;
    backend.close_tunnel(&Caller::embedded(), &TunnelRef::Id(id)).await.unwrap();
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("closed by somebody else"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("lost"), "nothing was lost: {}", ended.stderr);
}

#[tokio::test]
async fn without_a_server_it_ends_with_69_and_says_where_it_looked_and_what_to_do() {
    let (_held, nowhere) = closed_port();
    let ended = run(&["tcp", "3000", "--server", &nowhere.to_string()]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(69), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("http://{nowhere}")), "{}", ended.stderr);
    assert!(ended.stderr.contains("--server") && ended.stderr.contains("tunnel-server"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_refusal_ends_with_1_and_is_passed_on() {
    let (_backend, url) = service().await;
    let ended = run(&["tcp", "3000", "--server", &url, "--backend", "mux"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("tunnel: backend: "), "{}", ended.stderr);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_cannot_be_printed_ends_it_with_1_and_leaves_nothing_open() {
    let (backend, url) = service().await;
    let mut command = tunnel(&["tcp", "1", "--server", &url]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let child = command.spawn().expect("the command starts");

    let ended: Ended = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap().into();

    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("tunnel: cannot write to stdout"), "{}", ended.stderr);
    assert!(tunnels(&backend).await.is_empty());
}

#[tokio::test]
async fn only_clients_that_are_allowed_and_not_denied_are_let_in() {
    let (backend, url) = service().await;
    for (lists, is_let_in) in [
        (&["--allow", "127.0.0.0/8", "--allow", "::1", "--deny", "127.0.0.2"][..], true),
        (&["--allow", "192.0.2.0/24"], false),
        (&["--deny", "127.0.0.1"], false),
    ] {
        let (target, _echo) = echo_once().await;
        let target = target.to_string();
        let args = [&["tcp", &target, "--server", &url], lists].concat();
        let running = start(&args).await;
        is_online(&backend).await;
        // Whoever is kept out may hear so before it knows that it was connected.
        let heard = match TcpStream::connect(running.public()).await {
            Ok(mut client) => {
                let mut heard = Vec::new();
                let conversation = async {
                    client.write_all(b"through").await?;
                    client.shutdown().await?;
                    client.read_to_end(&mut heard).await
                };
                timeout(LIMIT, conversation).await.unwrap().is_ok() && heard == b"through"
            }
            Err(_) => false,
        };
        assert_eq!(heard, is_let_in, "{lists:?}");
        running.signal("-INT").await;
        running.end().await;
    }
}
