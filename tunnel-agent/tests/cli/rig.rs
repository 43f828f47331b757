//! A tunnel service in this process, and the command in another.

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
    process::{Child, ChildStderr, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::server::TcpIncoming;
use tunnel_api::{
    AddressRequest, Caller, OpenTunnel, OpenedTunnel, Page, TunnelBackend, TunnelInfo, TunnelState, WatchFilter, What,
    rpc::TunnelService,
};
use tunnel_backends::{
    ports::{PortPool, PortRange},
    tcp::TcpConfig,
    tunnels::Tunnels,
};

/// A tunnel service with one backend, and its URL.
pub(crate) async fn service() -> (Arc<dyn TunnelBackend>, String) {
    let pool = || PortPool::new(PortRange::Kernel, Default::default());
    let backend: Arc<dyn TunnelBackend> = Arc::new(TcpConfig::new("tcp", Tunnels::new(), pool(), pool()).build());
    let url = serve(backend.clone()).await;
    (backend, url)
}

pub(crate) async fn serve(backend: Arc<dyn TunnelBackend>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = TunnelService::new(backend).into_server();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

/// The way to a server for one connection; aborting it cuts the connection.
pub(crate) async fn wire(to: &str) -> (String, JoinHandle<()>) {
    let server = to.strip_prefix("http://").expect("a URL").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let wire = async move {
        let (mut near, _) = listener.accept().await.expect("a connection");
        let mut far = TcpStream::connect(server).await.expect("the server");
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    };
    (url, tokio::spawn(wire))
}

/// The command, in an environment that says nothing about it.
pub(crate) fn tunnel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TNL_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").env_remove("NO_COLOR");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn run(args: &[&str]) -> Ended {
    finish(tunnel(args)).await
}

pub(crate) async fn finish(mut command: Command) -> Ended {
    timeout(LIMIT, command.output()).await.expect("an end in time").expect("the command starts").into()
}

/// Runs it to its end with this on its stdin.
pub(crate) async fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Ended {
    let mut child = tunnel(args).stdin(Stdio::piped()).spawn().expect("the command starts");
    let mut pipe = child.stdin.take().expect("its stdin");
    // It need not read it all.
    let _ = pipe.write_all(stdin).await;
    drop(pipe);
    timeout(LIMIT, child.wait_with_output()).await.expect("an end in time").expect("an output").into()
}

/// What is left of a command that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// The command, running, with what it has yet to print.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// The first line of its stdout.
    pub(crate) first: String,
}

/// Starts it and reads the first line it prints.
pub(crate) async fn start(args: &[&str]) -> Running {
    let mut running = start_unheard(args);
    running.first = running.line().await;
    running
}

/// Starts it and waits for nothing.
pub(crate) fn start_unheard(args: &[&str]) -> Running {
    let mut child = tunnel(args).spawn().expect("the command starts");
    let stdout = BufReader::new(child.stdout.take().expect("its stdout"));
    let stderr = BufReader::new(child.stderr.take().expect("its stderr"));
    Running { child, stdout, stderr, first: String::new() }
}

impl Running {
    /// The address that `tunnel tcp` has printed.
    pub(crate) fn public(&self) -> SocketAddr {
        let address = self.first.trim_end().strip_prefix("tcp://").expect("a tcp address");
        address.parse().expect("an address and a port")
    }

    /// The next line of stdout.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LIMIT, self.stdout.read_line(&mut line)).await.expect("a line in time").expect("a line");
        line
    }

    /// What stderr says up to and with the first line that has this in it.
    pub(crate) async fn told(&mut self, what: &str) -> String {
        let mut told = String::new();
        let read = async {
            while !told.lines().last().is_some_and(|line| line.contains(what)) {
                let more = self.stderr.read_line(&mut told).await.expect("a line");
                assert!(more > 0, "it ended and never said {what:?}: {told}");
            }
        };
        timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("nothing said {what:?}"));
        told
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await.expect("kill is there");
        assert!(sent.success());
    }

    /// Its exit code, and what it printed that was not read yet.
    pub(crate) async fn end(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let all = async {
            let read = tokio::join!(self.stdout.read_to_string(&mut stdout), self.stderr.read_to_string(&mut stderr));
            read.0.expect("its stdout");
            read.1.expect("its stderr");
            self.child.wait().await.expect("a status").code()
        };
        let code = timeout(LIMIT, all).await.expect("an end in time");
        Ended { code, stdout, stderr }
    }
}

pub(crate) async fn tunnels(backend: &Arc<dyn TunnelBackend>) -> Vec<TunnelInfo> {
    backend.list_tunnels(&Caller::embedded(), &Page { after: None, limit: 10 }).await.expect("a list")
}

/// A tunnel that no command has opened.
pub(crate) async fn open(backend: &Arc<dyn TunnelBackend>, name: &str) -> OpenedTunnel {
    let request = OpenTunnel {
        name: Some(name.parse().expect("a name")),
        address: AddressRequest::any(),
        ..OpenTunnel::default()
    };
    backend.open_tunnel(&Caller::embedded(), request).await.expect("a tunnel")
}

/// Waits until an agent has dialled in; by then it follows the news of its tunnel.
pub(crate) async fn is_online(backend: &Arc<dyn TunnelBackend>) {
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

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
