//! The options of every TCP socket that carries users' bytes.
//!
//! - TCP_NODELAY: the relay writes what it has; waiting for more is the sender's choice, not ours.
//! - Keepalive after 5 s of silence, every 5 s, 3 times, but for services on this host: a host that vanished is noticed within 20 s while nothing is on
//!   its way to it. With bytes on their way the kernel gives up after about 15 minutes. (TCP_USER_TIMEOUT would be quicker,
//!   but since Linux 5.11 it also ends connections whose reader has merely stopped reading for that long.)
//!
//! A listener's options are inherited by what it accepts, so they are set once a port and cost nothing a connection.

#[cfg(feature = "serve")]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{io, net::SocketAddr, time::Duration};

#[cfg(feature = "serve")]
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// Listens on `addr`. A wildcard v6 address takes v4 too.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Without it a restart could not take its ports back for a minute. It is not SO_REUSEPORT: a port that somebody listens
    // on stays theirs.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    set_options(&SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Where to listen for everybody: by IPv6 and IPv4, or where there is no IPv6, by IPv4 alone.
#[cfg(feature = "serve")]
pub fn all_addresses() -> IpAddr {
    let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let has_v6 = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| {
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::new(v6, 0).into())
        })
        .is_ok();
    if has_v6 { v6 } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// As [`listen`], for users' streams: a connection that was accepted here and is dropped is reset, unless it was
/// [finished](crate::relay::Duplex::finish_on_drop). So it is, too, when the process is killed and the kernel closes its
/// sockets: what was cut short must not look complete.
pub fn listen_for_streams(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = listen(addr)?;
    reset_unless_finished(&listener)?;
    Ok(listener)
}

/// What a connection that carries a user's stream gets that was not accepted by such a listener.
#[cfg(unix)]
pub fn reset_unless_finished(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// It is closed in order from now on: all that was written reaches the peer.
#[cfg(feature = "serve")]
pub(crate) fn finish(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_linger(None)
}

/// Connects to `addr`, within `limit`.
pub async fn connect(addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    // This host does not vanish without us, and its own services are connected to for each client.
    if !addr.ip().is_loopback() {
        keep_alive(&options)?;
    }
    tokio::time::timeout(limit, socket.connect(addr))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
}

/// Connects to the first of a host's addresses that answers. All of that, with the look-up, is over within `limit`; each address
/// gets its share of what is left.
pub async fn connect_to(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let until = tokio::time::Instant::now() + limit;
    let looked_up = tokio::time::timeout_at(until, lookup_host((host, port))).await;
    let addrs: Vec<SocketAddr> = match looked_up {
        Ok(addrs) => addrs?.collect(),
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "its name could not be looked up in time")),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (number, addr) in addrs.iter().enumerate() {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        match connect(*addr, left / (addrs.len() - number) as u32).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// For a connection that many streams share: what its kernel holds unsent is soon on its way, so that a stream's first bytes do
/// not queue behind megabytes of another's.
pub(crate) fn keep_little_unsent(socket: &TcpStream) {
    // Where the kernel cannot, it is merely slower beside bulk.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
}

/// Closes with a reset, so that the peer cannot take it for an end.
pub fn reset(socket: TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = socket.set_zero_linger();
    drop(socket);
}

/// The same address however the peer was accepted: v4-mapped v6 is v4.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The network that counts as one party: a v4 address, or a v6 /64 (this host is one, too, and not a network).
#[cfg(feature = "serve")]
pub fn network_of(ip: IpAddr) -> IpNet {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpNet::V4(Ipv4Net::from(ip)),
        IpAddr::V6(ip) if ip.is_loopback() => IpNet::V6(Ipv6Net::from(ip)),
        IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new_assert(ip, 64).trunc()),
    }
}

/// Everywhere.
#[cfg(feature = "serve")]
pub(crate) fn everybody() -> Vec<IpNet> {
    vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

/// This host, as it comes to itself.
#[cfg(feature = "serve")]
pub(crate) fn loopback() -> Vec<IpNet> {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    vec![IpNet::V4(v4), IpNet::V6(Ipv6Net::from(Ipv6Addr::LOCALHOST))]
}

fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    keep_alive(socket)
}

fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(5)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// In bytes. Less costs throughput in system calls.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// Holds the clients that come while all places for waiting are taken. The kernel cuts it to its own limit
/// (`net.core.somaxconn`, 4,096 by default).
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::relay::Duplex as _;

    #[tokio::test]
    async fn what_a_listener_accepts_has_its_options() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.linger().unwrap(), None);
        assert!(accepted.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
    }

    /// As the kernel drops it when its process is killed.
    #[tokio::test]
    async fn a_users_stream_that_is_dropped_unfinished_is_reset() {
        let listener = listen_for_streams("127.0.0.1:0".parse().unwrap()).unwrap();
        for finishes in [false, true] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            accepted.write_all(b"half an ans").await.unwrap();
            client.read_exact(&mut [0; 11]).await.unwrap();
            if finishes {
                accepted.finish_on_drop();
            }
            drop(accepted);
            let heard = client.read(&mut [0]).await.map_err(|error| error.kind());
            assert_eq!(heard, if finishes { Ok(0) } else { Err(io::ErrorKind::ConnectionReset) });
        }
    }

    #[test]
    fn a_party_is_one_v4_host_or_one_v6_network() {
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let network = |text: &str| network_of(ip(text));
        assert_eq!(network("192.0.2.7"), network("::ffff:192.0.2.7"));
        assert!(network("192.0.2.7").contains(&ip("192.0.2.7")));
        assert!(!network("192.0.2.7").contains(&ip("192.0.2.8")));
        assert!(network("2001:db8::1").contains(&ip("2001:db8::2")));
        assert!(!network("2001:db8::1").contains(&ip("2001:db8:0:1::1")));
        assert!(!network("::1").contains(&ip("::2")));
    }
}
