//! What the program promises of its state: it survives whatever ends the program, and is nobody else's.
#![cfg(unix)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    process::{Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tempfile::{TempDir, tempdir};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use tunnel_api::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelId, TunnelRef, TunnelUri,
    rpc::RemoteBackend, tls::ClientTls,
};
use tunnel_backends::{
    carrier::dialler_for,
    testing::{TestAgent, connect, echo, rig::free_ports},
};

/// A place for a server, which may be started there again and again.
struct Place {
    scratch: TempDir,
}

impl Place {
    /// With so many public ports.
    fn new(ports: u16) -> Self {
        let scratch = tempdir().expect("a directory");
        let ports: RangeInclusive<u16> = free_ports(ports + 1);
        let (listen, first, last) = (ports.start(), ports.start() + 1, ports.end());
        let config = format!(
            "listen = \"127.0.0.1:{listen}\"\nstate = \"state\"\n\
             [ports]\npublic = \"{first}-{last}\"\ndial_in = 0\n[backends.mux.mux]\n[backends.tcp.tcp]\n"
        );
        fs::write(scratch.path().join("server.toml"), config).expect("a config");
        Self { scratch }
    }

    fn config(&self) -> String {
        self.scratch.path().join("server.toml").display().to_string()
    }

    fn server(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-server"));
        command.args(["--config", &self.config()]);
        self.piped(command)
    }

    /// No file may grow, as on a full disk.
    fn server_on_a_full_disk(&self) -> Command {
        let server = format!(
            "trap '' XFSZ; ulimit -f 0; exec '{}' --config '{}'",
            env!("CARGO_BIN_EXE_tunnel-server"),
            self.config()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &server]);
        self.piped(command)
    }

    fn piped(&self, mut command: Command) -> Command {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.env("NO_COLOR", "1");
        command
    }

    fn records(&self) -> usize {
        fs::read_dir(self.scratch.path().join("state/tunnels")).expect("a directory").count()
    }
}

/// One life of a server.
struct Running {
    child: Child,
    said: String,
    _stderr: BufReader<ChildStderr>,
    remote: RemoteBackend,
}

impl Running {
    async fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("its stderr"));
        let mut said = String::new();
        while !said.contains("listens on") {
            let some = timeout(LIMIT, stderr.read_line(&mut said)).await.expect("a line in time").expect("a line");
            assert_ne!(some, 0, "it ended: {said}");
        }
        let addr = said.rsplit(' ').next().expect("an address").trim().to_owned();
        let remote = RemoteBackend::connect(&format!("http://{addr}")).await.expect("it answers");
        Self { child, said, _stderr: stderr, remote }
    }

    async fn open(&self, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.remote.open_tunnel(&Caller::embedded(), request).await
    }

    async fn close(&self, id: &TunnelId) -> Result<(), TunnelError> {
        self.remote.close_tunnel(&Caller::embedded(), &TunnelRef::Id(id.clone())).await
    }

    async fn list(&self) -> BTreeMap<TunnelId, PublicAddress> {
        let mut page = Page { after: None, limit: Page::MAX };
        let mut all = BTreeMap::new();
        loop {
            let some = self.remote.list_tunnels(&Caller::embedded(), &page).await.expect("a list");
            let is_last = some.len() < page.limit;
            page.after = some.last().map(|info| info.id.clone());
            all.extend(some.into_iter().map(|info| (info.id, info.addresses[0].clone())));
            if is_last {
                return all;
            }
        }
    }

    /// As `kill -9` does.
    async fn kill(mut self) {
        self.child.kill().await.expect("it ends");
    }
}

/// Runs it to its end; gives its exit code and what it said.
async fn run(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        timeout(LIMIT, command.output()).await.expect("an end in time").expect("it starts");
    (status.code(), String::from_utf8(stderr).expect("text"))
}

fn mux(name: Option<String>) -> OpenTunnel {
    let name = name.map(|name| name.parse().expect("a name"));
    OpenTunnel { backend: Some("mux".to_owned()), name, ..OpenTunnel::default() }
}

/// What has been acknowledged.
#[derive(Default)]
struct Ledger {
    open: BTreeMap<TunnelId, (TunnelUri, PublicAddress)>,
    closed: BTreeSet<TunnelId>,
}

/// Opens tunnels with names and without until the server is gone, and closes some of them; counts what it has done.
async fn load(server: &Running, number: usize, done: &AtomicUsize) -> Ledger {
    let mut ledger = Ledger::default();
    for turn in 0.. {
        let name = (turn % 2 == 0).then(|| format!("n-{number}-{}", fresh()));
        let Ok(opened) = server.open(mux(name)).await else { break };
        ledger.open.insert(opened.id.clone(), (opened.uri, opened.address));
        if turn % 3 == 2 {
            // Of a close that is not acknowledged nothing is known.
            ledger.open.remove(&opened.id);
            match server.close(&opened.id).await {
                Ok(()) => ledger.closed.insert(opened.id),
                Err(_) => break,
            };
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    ledger
}

/// A number that no name has yet.
fn fresh() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_under_load_twenty_times_loses_nothing() {
    let place = Place::new(900);
    let mut all = Ledger::default();
    let mut server = Running::start(place.server()).await;
    for round in 0..ROUNDS {
        // Killed in the middle of it.
        let done = AtomicUsize::new(0);
        let working = join_all((0..LOADERS).map(|number| load(&server, number, &done)));
        let pid = server.child.id().expect("it runs").to_string();
        let killing = async {
            while done.load(Ordering::Relaxed) < OPENS {
                tokio::task::yield_now().await;
            }
            assert!(Command::new("kill").args(["-9", &pid]).status().await.unwrap().success());
        };
        let (ledgers, ()) = timeout(LIMIT, async { tokio::join!(working, killing) }).await.expect("the round in time");
        for ledger in ledgers {
            all.open.extend(ledger.open);
            all.closed.extend(ledger.closed);
        }
        server.kill().await;

        server = Running::start(place.server()).await;
        let list = server.list().await;
        for (id, (uri, address)) in &all.open {
            assert_eq!(list.get(id), Some(address), "round {round}: {id}");
            let found = server.remote.get_tunnel_address(&Caller::embedded(), uri).await;
            assert_eq!(found.ok().as_ref(), Some(address), "round {round}: the URI of {id}");
        }
        for id in &all.closed {
            assert!(!list.contains_key(id), "round {round}: {id} is back, and was closed");
        }
        let addresses: BTreeSet<_> = list.values().map(PublicAddress::port).collect();
        assert_eq!(addresses.len(), list.len(), "round {round}: two tunnels have one address");
    }
    assert!(all.open.len() >= ROUNDS * OPENS / 2 && !all.closed.is_empty());

    // Agents that know nothing of all this are let in with the tickets they have.
    for (uri, address) in all.open.values().step_by(7) {
        let dialler = dialler_for(uri, &ClientTls::default()).unwrap();
        timeout(LIMIT, dialler.dial(uri)).await.unwrap().unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    let (uri, address) = all.open.values().next().unwrap();
    let _agent = TestAgent::dial(uri, 1).serve(echo);
    let mut client = connect(address).await;
    client.write_all(b"a").await.unwrap();
    assert_eq!(timeout(LIMIT, client.read_u8()).await.unwrap().unwrap(), b'a');
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_it_restores_serves_refuses_and_closes() {
    let place = Place::new(8);
    let server = Running::start(place.server()).await;
    let (kept, other) =
        (server.open(mux(Some("kept".to_owned()))).await.unwrap(), server.open(mux(None)).await.unwrap());
    server.kill().await;

    let server = Running::start(place.server_on_a_full_disk()).await;
    assert!(server.said.contains("restored=2"), "{}", server.said);
    let _agent = TestAgent::dial(&kept.uri, 1).serve(echo);
    let mut client = connect(&kept.address).await;
    client.write_all(b"a").await.unwrap();
    assert_eq!(timeout(LIMIT, client.read_u8()).await.unwrap().unwrap(), b'a');

    for name in [None, Some("new".to_owned())] {
        match server.open(mux(name)).await {
            Err(TunnelError::Unavailable { why, .. }) => assert!(why.contains("cannot write its state"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((place.records(), server.list().await.len()), (2, 2));
    server.close(&other.id).await.unwrap();
    assert_eq!((place.records(), server.list().await.len()), (1, 1));
    client.write_all(b"b").await.unwrap();
    assert_eq!(timeout(LIMIT, client.read_u8()).await.unwrap().unwrap(), b'b');
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_state_when_it_is_told_to_stop() {
    let place = Place::new(8);
    let mut server = Running::start(place.server()).await;
    let tunnel = server.open(mux(None)).await.unwrap();
    let _agent = TestAgent::dial(&tunnel.uri, 1).serve(echo);
    let pid = server.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    assert!(timeout(LIMIT, server.child.wait()).await.expect("an end in time").unwrap().success());

    // Its agent comes back by itself, by the same URI.
    let server = Running::start(place.server()).await;
    assert_eq!(server.list().await.keys().collect::<Vec<_>>(), [&tunnel.id]);
    let mut client = connect(&tunnel.address).await;
    client.write_all(b"a").await.unwrap();
    assert_eq!(timeout(LIMIT, client.read_u8()).await.unwrap().unwrap(), b'a');
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_used_is_said_at_start_with_what_to_do() {
    let place = Place::new(8);
    let server = Running::start(place.server()).await;
    let tunnel = server.open(mux(None)).await.unwrap();

    let mut second = place.server();
    second.args(["--listen", "127.0.0.1:0"]);
    let (code, said) = run(second).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use by another server") && said.contains("/state"), "{said}");

    server.kill().await;
    let record = place.scratch.path().join(format!("state/tunnels/{}.json", tunnel.id));
    let json = fs::read_to_string(&record).unwrap();
    assert!(!json.contains(tunnel.uri.credentials().unwrap().1), "the ticket is in the record");
    fs::write(&record, &json[..json.len() / 2]).unwrap();
    let (code, said) = run(place.server()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&record.display().to_string()) && said.contains("move it away"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_directory_it_says_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-server"));
    command.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).kill_on_drop(true).env("NO_COLOR", "1");
    let server = Running::start(command).await;
    assert!(server.said.contains("a restart forgets them"), "{}", server.said);
}

const ROUNDS: usize = 20;
const LOADERS: usize = 6;
const OPENS: usize = 24;
const LIMIT: Duration = Duration::from_secs(30);
