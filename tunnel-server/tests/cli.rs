//! The `tunnel-server` command, as a shell sees it.
#![cfg(unix)]

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixDatagram},
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use tunnel_api::{Caller, OpenTunnel, TunnelBackend, rpc::RemoteBackend};

fn server(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-server"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end; gives its exit code and what it said to whom.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        timeout(LIMIT, server(args).output()).await.expect("an end in time").expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Starts it on a port of the kernel's choice; gives what it says up to and with the line that says where it listens.
async fn start(mut command: Command) -> (Child, BufReader<ChildStderr>, String) {
    let mut child = command.spawn().expect("it starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("its stderr"));
    let mut said = String::new();
    while !said.contains("listens on") {
        let some = timeout(LIMIT, stderr.read_line(&mut said)).await.expect("a line in time").expect("a line");
        assert_ne!(some, 0, "it ended: {said}");
    }
    let addr = said.rsplit(' ').next().expect("an address").trim().to_owned();
    (child, stderr, addr)
}

/// A file of this content, in cargo's directory for tests' files.
fn file(name: &str, content: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, content).expect("a file");
    path
}

/// The kernel closes its sockets: not as if streams were complete.
#[tokio::test]
async fn a_server_that_is_killed_resets_its_clients() {
    let (mut child, _stderr, addr) = start(server(&["--listen", "127.0.0.1:0"])).await;
    let backend = RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();
    let tunnel = backend.open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
    let mut agent = TcpStream::connect((tunnel.uri.host().to_string(), tunnel.uri.port())).await.unwrap();
    let mut client = TcpStream::connect(tunnel.address.authority()).await.unwrap();
    agent.write_all(b"half an ans").await.unwrap();
    client.read_exact(&mut [0; 11]).await.unwrap();

    child.start_kill().unwrap();

    for side in [&mut client, &mut agent] {
        let heard = timeout(LIMIT, side.read(&mut [0])).await.unwrap().map_err(|error| error.kind());
        assert_eq!(heard, Err(std::io::ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn it_starts_without_a_config_says_where_it_listens_and_what_to_try_and_serves() {
    let (mut child, mut stderr, addr) = start(server(&["--listen", "127.0.0.1:0"])).await;
    let mut hints = String::new();
    for _ in 0..2 {
        timeout(LIMIT, stderr.read_line(&mut hints)).await.unwrap().unwrap();
    }
    for hint in [format!("tunnel http 3000 --server http://{addr}"), format!("grpcurl -plaintext -d '{{}}' {addr}")] {
        assert!(hints.contains(&hint), "{hints}");
    }

    let remote = RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();
    remote.open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();

    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = timeout(LIMIT, child.wait()).await.expect("an end in time").unwrap();
    assert_eq!(status.code(), Some(0));
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
    assert_eq!(stdout, "");
}

#[tokio::test]
async fn the_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = server(&["--listen", "127.0.0.1:0", "--admin", "off"]);
    command.env("NOTIFY_SOCKET", &path);
    let (mut child, _stderr, addr) = start(command).await;

    let ready = told(&manager).await;
    assert!(ready.contains("READY=1") && ready.contains(&addr), "{ready}");
    // It is, too.
    RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();

    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let stopping = told(&manager).await;
    assert!(stopping.contains("STOPPING=1"), "{stopping}");
    timeout(LIMIT, child.wait()).await.expect("an end in time").unwrap();
}

async fn told(manager: &UnixDatagram) -> String {
    let mut heard = vec![0; 1024];
    let length = timeout(LIMIT, manager.recv(&mut heard)).await.expect("a message in time").expect("a message");
    String::from_utf8_lossy(&heard[..length]).into_owned()
}

#[tokio::test]
async fn an_admin_address_that_is_set_must_be_free_and_not_for_everybody() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    let (code, _, complaint) = run(&["--listen", "127.0.0.1:0", "--admin", &admin]).await;
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains(&admin) && complaint.contains("admin.listen"), "{complaint}");
    let (code, _, complaint) = run(&["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"]).await;
    assert_eq!(code, Some(78), "{complaint}");
    assert!(complaint.contains("admin.allow"), "{complaint}");
    let (code, _, complaint) = run(&["--admin", "on"]).await;
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("127.0.0.1:8011") && complaint.contains("off"), "{complaint}");
}

/// Two servers for one port: one after the other.
#[tokio::test]
async fn a_platform_that_hands_out_a_port_by_a_variable_finds_the_server_there() {
    let port = free_port();
    let mut by_flag = server(&["--listen", "$PORT", "--insecure", "--admin", "off"]);
    by_flag.env("PORT", port.to_string());
    let config = file("platform.toml", "listen = \"127.0.0.1:$HTTP_PORT\"\n[admin]\nlisten = \"off\"\n");
    let mut by_file = server(&["--config", config.to_str().unwrap()]);
    by_file.env("HTTP_PORT", port.to_string());
    for command in [by_flag, by_file] {
        let (mut child, _stderr, addr) = start(command).await;
        assert!(addr.ends_with(&format!(":{port}")), "{addr}");
        // By IPv4, too, whatever all addresses are.
        RemoteBackend::connect(&format!("http://127.0.0.1:{port}")).await.unwrap();
        child.kill().await.unwrap();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

#[tokio::test]
async fn a_variable_that_has_no_port_is_a_config_error_that_says_what_to_do() {
    let config = file("no-port.toml", "\nlisten = \"$NO_SUCH_PORT\"\n");
    let config = config.to_str().unwrap();
    for (args, place) in [
        (&["--listen", "$NO_SUCH_PORT"][..], "listen"),
        (&["--config", config], "line 2"),
        (&["check", config], "line 2"),
    ] {
        let (code, _, complaint) = run(args).await;
        assert_eq!(code, Some(78), "{complaint}");
        for words in [place, "NO_SUCH_PORT is not set", "NO_SUCH_PORT=8080"] {
            assert!(complaint.contains(words), "{complaint} lacks {words}");
        }
    }
    let (code, _, complaint) = run(&["--listen", "${PORT}"]).await;
    assert_eq!(code, Some(2), "{complaint}");
    assert!(complaint.contains("$PORT") && complaint.contains("127.0.0.1:8010"), "{complaint}");
}

#[tokio::test]
async fn check_finds_a_good_config_fine() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../tunnel-server.example.toml");
    let (code, said, complaint) = run(&["check", example]).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert_eq!(said, format!("{example}: fine\n"));
}

#[tokio::test]
async fn check_says_which_line_of_which_file_is_wrong_and_what_to_write() {
    let impossible = file("impossible.toml", "\n[ports]\ndial_in = \"20000-20001\"\n");
    let unknown = file("unknown.toml", "drain = \"30s\"\nlisen = \"127.0.0.1:1\"\n");
    for (path, parts) in [
        (&impossible, &[":3: ports.dial_in", "overlaps", "choose ranges apart"][..]),
        (&unknown, &["line 2", "lisen", "listen"]),
    ] {
        for args in [["check", path.to_str().unwrap()], ["--config", path.to_str().unwrap()]] {
            let (code, said, complaint) = run(&args).await;
            assert_eq!((code, said.as_str()), (Some(78), ""), "{complaint}");
            for part in parts.iter().copied().chain([path.to_str().unwrap()]) {
                assert!(complaint.contains(part), "{args:?} said {complaint:?}, which lacks {part:?}");
            }
        }
    }
    let (code, _, complaint) = run(&["check", "/nowhere/at.all"]).await;
    assert_eq!(code, Some(78), "{complaint}");
}

#[tokio::test]
async fn off_loopback_it_refuses_to_start_unless_insecure_is_spelled_out() {
    let (code, said, complaint) = run(&["--listen", "0.0.0.0:0"]).await;
    assert_eq!((code, said.as_str()), (Some(78), ""), "{complaint}");
    assert!(complaint.contains("0.0.0.0") && complaint.contains("insecure = true"), "{complaint}");

    let (mut child, _stderr, _addr) = start(server(&["--listen", "0.0.0.0:0", "--insecure"])).await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn insecure_may_be_spelled_out_beside_a_config_too() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("server.toml");
    std::fs::write(&config, "listen = \"0.0.0.0:0\"\ntrusted_proxies = [\"192.0.2.1/32\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let (code, _, complaint) = run(&["-c", config]).await;
    assert_eq!(code, Some(78), "{complaint}");
    let (mut child, _stderr, _addr) = start(server(&["-c", config, "--insecure"])).await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_with_what_to_do() {
    let (_child, _stderr, addr) = start(server(&["--listen", "127.0.0.1:0"])).await;
    let (code, _, complaint) = run(&["--listen", &addr]).await;
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains(&addr) && complaint.contains("is another server running there"), "{complaint}");
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    for args in [&["--no-such-flag"][..], &["check"], &["--listen", "nowhere"]] {
        let (code, said, complaint) = run(args).await;
        assert_eq!((code, said.as_str()), (Some(2), ""), "{args:?}: {complaint}");
    }
    for address in ["8010", ":8010", "localhost:8010"] {
        let (_, _, complaint) = run(&["--listen", address]).await;
        assert!(complaint.contains("such as 127.0.0.1:8010"), "{address}: {complaint}");
    }
}

const LIMIT: Duration = Duration::from_secs(20);

/// A server with a config of its own; gives the child, its stderr and where it listens.
async fn start_with(config: &Path) -> (Child, BufReader<ChildStderr>, String) {
    start(server(&["--config", config.to_str().expect("UTF-8")])).await
}

async fn said(stderr: &mut BufReader<ChildStderr>, part: &str) -> String {
    let mut said = String::new();
    while !said.contains(part) {
        let some = timeout(LIMIT, stderr.read_line(&mut said)).await.expect("a line in time").expect("a line");
        assert_ne!(some, 0, "it ended and said {said}");
    }
    said
}

/// Until then what runs goes on, for as long as `drain` says.
#[tokio::test]
async fn a_second_signal_ends_at_once_what_still_runs() {
    let (mut child, mut stderr, addr) = start(server(&["--listen", "127.0.0.1:0"])).await;
    let backend = RemoteBackend::connect(&format!("http://{addr}")).await.unwrap();
    let tunnel = backend.open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
    let mut agent = TcpStream::connect((tunnel.uri.host().to_string(), tunnel.uri.port())).await.unwrap();
    let mut client = TcpStream::connect(tunnel.address.authority()).await.unwrap();
    let pid = child.id().unwrap().to_string();
    let terminate = || Command::new("kill").args(["-TERM", &pid]).status();

    client.write_all(b"before").await.unwrap();
    agent.read_exact(&mut [0; 6]).await.unwrap();
    terminate().await.unwrap();
    said(&mut stderr, "stopping").await;
    client.write_all(b"after").await.unwrap();
    agent.read_exact(&mut [0; 5]).await.unwrap();
    terminate().await.unwrap();

    let status = timeout(Duration::from_secs(5), child.wait()).await.expect("an end in time").unwrap();
    assert_eq!(status.code(), Some(0));
    let heard = client.read(&mut [0]).await.map_err(|error| error.kind());
    assert_eq!(heard, Err(std::io::ErrorKind::ConnectionReset));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_pool_within_the_kernels_own_range_is_warned_of() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let pool = format!("[ports]\ndial_in = \"{first}-{}\"\n", first + 10);
    let config = file("overlap.toml", &format!("listen = \"127.0.0.1:0\"\n{pool}"));
    let mut child = server(&["--config", config.to_str().unwrap()]).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let line = said(&mut stderr, "overlaps").await;
    assert!(line.contains("ports.dial_in") && line.contains("ip_local_port_range"), "{line}");
}

#[tokio::test]
async fn on_sighup_it_says_what_it_could_not_change() {
    let config = file("hup.toml", "listen = \"127.0.0.1:0\"\n");
    let (child, mut stderr, addr) = start_with(&config).await;
    let hang_up = || Command::new("kill").args(["-HUP", &child.id().unwrap().to_string()]).status();

    hang_up().await.unwrap();
    said(&mut stderr, "config reloaded").await;
    std::fs::write(&config, "listen = \"127.0.0.1:0\"\ndrain = \"1s\"\n[ports]\nextra_ports = [2222]\n").unwrap();
    hang_up().await.unwrap();
    let line = said(&mut stderr, "restart").await;
    assert!(line.contains("drain, ports"), "{line}");
    std::fs::write(&config, "nonsense = 1").unwrap();
    hang_up().await.unwrap();
    let line = said(&mut stderr, "not reloaded").await;
    assert!(line.contains("nonsense"), "{line}");
    RemoteBackend::connect(&format!("http://{addr}")).await.expect("it goes on");
}
