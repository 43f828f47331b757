//! A stranger tries all ports of the dial-in range, again and again, while tunnels are opened and dialled by the thousand: it is
//! never paired with a client, hears nothing, and is counted.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tunnel_api::{Caller, ConnectionAddrs, OpenTunnel, OpenedTunnel, Page, TunnelBackend, TunnelRef};
use tunnel_backends::ports::PortRange;
use tunnel_server::Running;
use tunnel_tests::{
    client::{Ended, at, hear_out},
    limit::within,
    server::{ports, server_with},
};

use crate::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_scans_the_dial_in_range_is_never_paired_and_hears_nothing() {
    let _alone = alone().await;
    within(async {
        let range = ports(300);
        let server = server_with(|config| config.ports.dial_in = PortRange::Between(range.clone())).await;
        // Given tunnels that stay, and whose agents never come.
        let resident = join_all((0..RESIDENT).map(|_| open(&server, 4))).await;

        // When thousands are opened and dialled while a stranger scans.
        let is_over = AtomicBool::new(false);
        let opened = AtomicUsize::new(0);
        let use_tunnels = async {
            let users = (0..USERS).map(async |user| {
                while opened.fetch_add(1, Ordering::Relaxed) < TUNNELS {
                    exchange(&server, user as u8).await;
                }
            });
            join_all(users).await;
            is_over.store(true, Ordering::Relaxed);
        };
        let (met, ()) = join!(scan(&range, &is_over), use_tunnels);

        // Then each tunnel that is still there has counted as many strangers as the stranger has met it.
        assert!(met.values().sum::<u64>() > 2 * RESIDENT as u64, "{met:?}");
        let page = Page { after: None, limit: 1000 };
        let listed = server.backend().list_tunnels(&Caller::embedded(), &page).await.expect("a list");
        let counted: HashMap<_, _> = listed.iter().map(|info| (info.id.clone(), info.strangers)).collect();
        assert_eq!(counted.len(), RESIDENT);
        for tunnel in resident {
            let port = at(tunnel.uri.expose()).port();
            assert_eq!(counted[&tunnel.id], met[&port], "{}", tunnel.id);
        }
    })
    .await;
}

/// Tries every port until it is over, at least twice; gives how often it met somebody at each.
async fn scan(range: &RangeInclusive<u16>, is_over: &AtomicBool) -> HashMap<u16, u64> {
    let mut met: HashMap<_, u64> = HashMap::new();
    for round in 0.. {
        if round >= 2 && is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut tried = stream::iter(range.clone()).map(try_port).buffer_unordered(64);
        while let Some(found) = tried.next().await {
            if let Some(port) = found {
                *met.entry(port).or_default() += 1;
            }
        }
    }
    met
}

/// The port if somebody was there; whoever it was had nothing to say.
async fn try_port(port: u16) -> Option<u16> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(STRANGER).expect("an address of this host");
    let mut stream = match socket.connect((Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return None,
        // Somebody was there, and quicker than we could see.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Some(port),
        Err(error) => panic!("at {port}: {error}"),
    };
    let said = stream.write_all(b"i am your agent").await;
    let (heard, ended) = timeout(Duration::from_secs(10), hear_out(&mut stream)).await.expect("an end");
    assert!(heard.is_empty(), "at {port} it heard {heard:?}");
    // A reset that our write has met is an end to the read after it.
    assert!(ended == Ended::Reset || said.is_err(), "at {port} it was not reset");
    Some(port)
}

/// One tunnel, one agent, one client, and a word of theirs.
async fn exchange(server: &Running, word: u8) {
    let tunnel = open(server, 1).await;
    let mut agent = TcpStream::connect(at(tunnel.uri.expose())).await.expect("a dial-in");
    let mut client = TcpStream::connect(at(&tunnel.address.to_string())).await.expect("a client");
    client.write_all(&[word]).await.expect("a client");
    let mut heard = [0];
    agent.read_exact(&mut heard).await.expect("the client's word");
    assert_eq!(heard, [word]);
    agent.write_all(&heard).await.expect("an agent");
    client.read_exact(&mut heard).await.expect("the agent's word");
    let closed = server.backend().close_tunnel(&caller(), &TunnelRef::Id(tunnel.id)).await;
    closed.expect("it was open");
}

async fn open(server: &Running, connections: u32) -> OpenedTunnel {
    let backend = Some("tcp".to_owned());
    let request = OpenTunnel { backend, connections: Some(connections), ..OpenTunnel::default() };
    server.backend().open_tunnel(&caller(), request).await.expect("a tunnel")
}

/// From 127.0.0.1, and so nobody else may dial in.
fn caller() -> Caller {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Caller::connected(ConnectionAddrs { peer: here, local: here, encrypted: false })
}

const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);
const RESIDENT: usize = 100;
const USERS: usize = 16;
const TUNNELS: usize = 2000;
