//! The PROXY protocol v2 header, as we write it: who the client is, said before its first byte. Servers send it to agents on
//! the `tcp` wire, and agents to the local services that want it.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

use crate::sockets;

/// The header for a client that comes from `from` and connected to `to`.
pub fn header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = of_one_family(sockets::canonical(from), sockets::canonical(to));
    let mut header = Vec::with_capacity(64);
    // Fails only when the buffer is a slice that is too short.
    let _ = ProxyHeader::with_address(ProxiedAddress::stream(from, to)).encode_v2(&mut header);
    header
}

/// The header has room for two addresses of one kind. A client of the other one has come through a proxy of ours.
fn of_one_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let as_v6 = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    };
    (as_v6(from), as_v6(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v4_client_is_v4_however_it_was_accepted() {
        let header = header("[::ffff:192.0.2.7]:4660".parse().unwrap(), "198.51.100.1:22".parse().unwrap());
        assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(&header[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(&header[16..], [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 0, 22]);
    }

    #[test]
    fn a_client_of_another_family_than_ours_is_named_too() {
        let (v4, v6): (SocketAddr, SocketAddr) =
            ("192.0.2.1:22".parse().unwrap(), "[2001:db8::7]:4660".parse().unwrap());
        for (from, to) in [(v6, v4), (v4, v6)] {
            let header = header(from, to);
            let (read, length) = ProxyHeader::parse(&header, Default::default()).unwrap();
            let read = read.proxied_address().unwrap();
            assert_eq!((length, &header[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
            assert_eq!((sockets::canonical(read.source), sockets::canonical(read.destination)), (from, to));
        }
    }
}
