//! The `tunnel` command, as a shell sees it.
#![cfg(unix)]

use std::{
    net::SocketAddr,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tonic::transport::server::TcpIncoming;
use tunnel_api::{
    Caller, Page, TunnelBackend, TunnelInfo, TunnelRef, TunnelState, WatchFilter, What, rpc::TunnelService,
};
use tunnel_backends::{
    ports::{PortPool, PortRange},
    tcp::TcpConfig,
    tunnels::Tunnels,
};

/// A tunnel service in this process, and its URL.
async fn service() -> (Arc<dyn TunnelBackend>, String) {
    let pool = || PortPool::new(PortRange::Kernel, Default::default());
    let backend: Arc<dyn TunnelBackend> = Arc::new(TcpConfig::new("tcp", Tunnels::new(), pool(), pool()).build());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = TunnelService::new(backend.clone()).into_server();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (backend, url)
}

/// The command, running, with what it has yet to print.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

fn tunnel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts it and reads the line it prints.
async fn start(args: &[&str]) -> Running {
    let mut child = tunnel(args).stderr(Stdio::null()).spawn().expect("the command starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("its stdout"));
    let mut address = String::new();
    timeout(LIMIT, stdout.read_line(&mut address)).await.expect("a line in time").expect("a line");
    Running { child, stdout, address }
}

/// Runs it to its end.
async fn run(args: &[&str]) -> Output {
    timeout(LIMIT, tunnel(args).output()).await.expect("an end in time").expect("the command starts")
}

impl Running {
    fn public(&self) -> SocketAddr {
        let address = self.address.trim_end().strip_prefix("tcp://").expect("a tcp address");
        address.parse().expect("an address and a port")
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await.expect("kill is there");
        assert!(sent.success());
    }

    /// Its exit code, and what it printed after the address.
    async fn end(mut self) -> (Option<i32>, String) {
        let status = timeout(LIMIT, self.child.wait()).await.expect("an end in time").expect("a status");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).await.expect("its stdout");
        (status.code(), rest)
    }
}

async fn tunnels(backend: &Arc<dyn TunnelBackend>) -> Vec<TunnelInfo> {
    backend.list_tunnels(&Caller::embedded(), &Page { after: None, limit: 10 }).await.expect("a list")
}

/// Waits until an agent has dialled in; by then it follows the news of its tunnel.
async fn is_online(backend: &Arc<dyn TunnelBackend>) {
    let mut events = backend.watch_tunnels(&Caller::embedded(), &WatchFilter::default()).await.expect("a watch");
    let online = async {
        loop {
            match events.next().await.expect("no end of the watch").expect("an event").what {
                What::Present(info) if info.state == TunnelState::Online => break,
                What::AgentConnected { .. } => break,
                _ => {}
            }
        }
    };
    timeout(LIMIT, online).await.expect("an agent in time");
}

/// A local service that echoes one client.
async fn echo_once() -> (u16, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let echo = async move {
        let (mut socket, _) = listener.accept().await?;
        let (mut read, mut write) = socket.split();
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await
    };
    (port, tokio::spawn(echo))
}

#[tokio::test]
async fn stdout_is_the_address_alone_and_clients_are_forwarded_until_ctrl_c_which_closes_the_tunnel() {
    let (backend, url) = service().await;
    let (port, echo) = echo_once().await;

    let running = start(&["tcp", &port.to_string(), "--server", &url]).await;
    let open = tunnels(&backend).await;
    assert_eq!(running.address, format!("{}\n", open[0].addresses[0]));
    let public = running.public();

    let mut client = TcpStream::connect(public).await.unwrap();
    client.write_all(b"through").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"through");
    echo.await.unwrap().unwrap();

    running.signal("-INT").await;
    assert_eq!(running.end().await, (Some(0), String::new()));
    assert!(tunnels(&backend).await.is_empty());
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

        assert_eq!(running.end().await.0, Some(0));
        let end = timeout(LIMIT, client.read(&mut heard)).await.unwrap();
        assert!(end.is_err(), "{more:?}: the client saw {end:?}");
        let end = timeout(LIMIT, service.read(&mut heard)).await.unwrap();
        assert!(end.is_err(), "{more:?}: the service saw {end:?}");
    }
}

#[tokio::test]
async fn sigterm_is_ctrl_c() {
    let (backend, url) = service().await;
    let running = start(&["tcp", "127.0.0.1:1", "--server", &url]).await;
    running.signal("-TERM").await;
    assert_eq!(running.end().await, (Some(0), String::new()));
    assert!(tunnels(&backend).await.is_empty());
}

#[tokio::test]
async fn a_named_tunnel_stays_when_the_command_goes_and_is_the_same_when_it_comes_back() {
    let (backend, url) = service().await;
    let args = ["tcp", "1", "--server", &url, "--name", "blog"];
    let first = start(&args).await;
    let address = first.address.clone();
    first.signal("-INT").await;
    assert_eq!(first.end().await.0, Some(0));
    assert_eq!(tunnels(&backend).await.len(), 1);

    let again = start(&args).await;
    assert_eq!(again.address, address);
}

#[tokio::test]
async fn it_ends_with_1_when_somebody_else_closes_the_tunnel() {
    let (backend, url) = service().await;
    let running = start(&["tcp", "1", "--server", &url]).await;
    let id = tunnels(&backend).await[0].id.clone();
    is_online(&backend).await;
    backend.close_tunnel(&Caller::embedded(), &TunnelRef::Id(id)).await.unwrap();
    assert_eq!(running.end().await, (Some(1), String::new()));
}

#[tokio::test]
async fn without_a_server_it_ends_with_69_and_says_where_it_looked() {
    let output = run(&["tcp", "3000", "--server", "http://127.0.0.1:1"]).await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(69), 0), "{complaint}");
    assert!(complaint.contains("http://127.0.0.1:1"), "{complaint}");
}

#[tokio::test]
async fn a_refusal_ends_with_1_and_is_passed_on() {
    let (_backend, url) = service().await;
    let output = run(&["tcp", "3000", "--server", &url, "--backend", "mux"]).await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{complaint}");
    assert!(complaint.starts_with("tunnel: backend: "), "{complaint}");
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["udp", "3000"],
        &["tcp"],
        &["tcp", "0"],
        &["tcp", "nowhere"],
        &["tcp", ":3000"],
        &["tcp", "3000", "--port", "0"],
    ];
    for args in wrong {
        let output = run(args).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}");
    }
}

const LIMIT: Duration = Duration::from_secs(20);
