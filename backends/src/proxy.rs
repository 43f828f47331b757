//! The PROXY protocol v2 header, as we write it: who the client is, said before its first byte. Servers send it to agents on
//! the `tcp` wire, and agents to the local services that want it.

use std::net::SocketAddr;

use proxy_header::{ProxiedAddress, ProxyHeader};

use crate::sockets;

/// The header for a client that comes from `from` and connected to `to`.
pub fn header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = (sockets::canonical(from), sockets::canonical(to));
    let mut header = Vec::with_capacity(64);
    // Fails only when the buffer is a slice that is too short.
    let _ = ProxyHeader::with_address(ProxiedAddress::stream(from, to)).encode_v2(&mut header);
    header
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
}
