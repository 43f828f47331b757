//! What a TLS connection begins with, read without doing anything about it: only the server name counts here. (rustls could tell it
//! as well, but refuses whoever it does not want to talk to; and who is passed on has not to talk to us.)

use bytes::{Bytes, BytesMut};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tunnel_api::Host;

use super::first::Refusal;

/// A ClientHello that is whole.
#[derive(Debug)]
pub(super) struct ClientHello {
    /// Whom the client wants to talk to.
    pub(super) server_name: Asked,
    /// All that has been read, perhaps more than the ClientHello.
    pub(super) bytes: Bytes,
}

/// A server name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The client says none.
    Nobody,
    Host(Host),
    /// It is no host's name.
    Other,
}

impl Asked {
    pub(super) fn host(&self) -> Option<&Host> {
        match self {
            Self::Host(host) => Some(host),
            Self::Nobody | Self::Other => None,
        }
    }
}

/// Reads until it is whole. The caller bounds the time.
pub(super) async fn read_client_hello(socket: &mut TcpStream) -> Result<ClientHello, Refusal> {
    let (mut bytes, mut records) = (BytesMut::with_capacity(2048), Records::default());
    loop {
        let known = bytes.len();
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(Refusal::Ended);
        }
        records.take(&bytes[known..])?;
        if let Some(message) = records.client_hello()? {
            let server_name = server_name(message).ok_or(Malformed)?;
            return Ok(ClientHello { server_name, bytes: bytes.freeze() });
        }
        if bytes.len() >= LONGEST_ON_THE_WIRE {
            return Err(Refusal::Malformed);
        }
    }
}

/// It is no ClientHello.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Takes TLS records apart (RFC 8446, 5.1), however they come. A message may be in any number of them.
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    /// What is missing of the record that has begun.
    left: usize,
    message: Vec<u8>,
}

impl Records {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (some, rest) = bytes.split_at(bytes.len().min(RECORD_HEADER - self.header.len()));
                self.header.extend_from_slice(some);
                bytes = rest;
                if let [kind, major, _, high, low] = self.header[..] {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    self.header.clear();
                    if self.client_hello()?.is_some() {
                        // What follows is not ours to look at.
                        return Ok(());
                    }
                    if kind != HANDSHAKE || major != 3 || self.left == 0 || self.left > LONGEST {
                        return Err(Malformed);
                    }
                }
            } else {
                let (some, rest) = bytes.split_at(bytes.len().min(self.left));
                self.message.extend_from_slice(some);
                (self.left, bytes) = (self.left - some.len(), rest);
            }
        }
        Ok(())
    }

    /// What is in it, once it is whole (RFC 8446, 4).
    fn client_hello(&self) -> Result<Option<&[u8]>, Malformed> {
        let Some((kind, rest)) = self.message.split_first() else { return Ok(None) };
        if *kind != CLIENT_HELLO {
            return Err(Malformed);
        }
        let Some(([high, middle, low], rest)) = rest.split_first_chunk().map(|(length, rest)| (*length, rest)) else {
            return Ok(None);
        };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > LONGEST {
            return Err(Malformed);
        }
        Ok(rest.get(..length))
    }
}

/// RFC 8446, 4.1.2; RFC 6066, 3. There is none where it is malformed, or could be read in two ways.
fn server_name(client_hello: &[u8]) -> Option<Asked> {
    let mut rest = Rest(client_hello);
    let _version_and_random = rest.take(2 + 32)?;
    let _session = rest.vector_of_8()?;
    let _suites = rest.vector_of_16()?;
    let _compressions = rest.vector_of_8()?;
    if rest.0.is_empty() {
        return Some(Asked::Nobody);
    }
    let mut extensions = Rest(rest.vector_of_16()?);
    if !rest.0.is_empty() {
        return None;
    }
    let mut asked = None;
    while !extensions.0.is_empty() {
        let (kind, extension) = (extensions.u16()?, extensions.vector_of_16()?);
        if kind == SERVER_NAME && asked.replace(host_name(extension)?).is_some() {
            return None;
        }
    }
    Some(asked.unwrap_or(Asked::Nobody))
}

fn host_name(extension: &[u8]) -> Option<Asked> {
    let mut rest = Rest(extension);
    let mut list = Rest(rest.vector_of_16()?);
    let (kind, name) = (list.u8()?, list.vector_of_16()?);
    // No other kind was ever made, and of this one there is one at most.
    if kind != HOST_NAME || !list.0.is_empty() || !rest.0.is_empty() {
        return None;
    }
    let host = std::str::from_utf8(name).ok().and_then(|name| name.parse::<Host>().ok());
    Some(host.filter(|host| host.ip().is_none()).map_or(Asked::Other, Asked::Host))
}

struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector_of_8(&mut self) -> Option<&'b [u8]> {
        let length = self.u8()?.into();
        self.take(length)
    }

    fn vector_of_16(&mut self) -> Option<&'b [u8]> {
        let length = self.u16()?.into();
        self.take(length)
    }
}

/// By which a TLS record with a ClientHello begins (RFC 8446, 5.1). No HTTP does.
pub(super) const HANDSHAKE: u8 = 0x16;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const RECORD_HEADER: usize = 5;

/// Of a record and of a ClientHello, in bytes. Those of today have some 500, and 2,000 with post-quantum keys.
const LONGEST: usize = 16 * 1024;

/// With the headers of its records: one of 5,000 bytes may come in records of one byte each.
const LONGEST_ON_THE_WIRE: usize = 2 * LONGEST;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn vector(length_of: usize, content: &[u8]) -> Vec<u8> {
        let length = content.len().to_be_bytes();
        [&length[length.len() - length_of..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, content)].concat()
    }

    fn naming(name: &str) -> Vec<u8> {
        extension(SERVER_NAME, &vector(2, &[&[HOST_NAME][..], &vector(2, name.as_bytes())].concat()))
    }

    fn content(extensions: &[Vec<u8>]) -> Vec<u8> {
        [&[3; 34][..], &vector(1, &[7; 32]), &vector(2, &[0x13, 1]), &vector(1, &[0]), &vector(2, &extensions.concat())]
            .concat()
    }

    fn message(content: &[u8]) -> Vec<u8> {
        [&[CLIENT_HELLO][..], &vector(3, content)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector(2, part)].concat()).collect()
    }

    fn asked(wire: &[u8], at_a_time: usize) -> Result<Option<Asked>, Malformed> {
        let mut records = Records::default();
        for part in wire.chunks(at_a_time) {
            records.take(part)?;
        }
        records.client_hello()?.map(|content| server_name(content).ok_or(Malformed)).transpose()
    }

    fn host(name: &str) -> Asked {
        Asked::Host(name.parse().unwrap())
    }

    #[test]
    fn a_name_is_found_however_the_client_hello_is_cut() {
        let message = message(&content(&[extension(23, &[]), naming("DB.Example.COM"), extension(43, &[2, 3, 4])]));
        for (size, at_a_time) in [(9999, 9999), (1, 9999), (1, 1), (9999, 1), (7, 3)] {
            let mut wire = records(&message, size);
            assert_eq!(asked(&wire, at_a_time), Ok(Some(host("db.example.com"))), "{size}, {at_a_time}");
            wire.pop();
            assert_eq!(asked(&wire, at_a_time), Ok(None), "{size}, {at_a_time}");
        }
    }

    #[test]
    fn what_follows_it_is_not_looked_at() {
        let mut wire = records(&message(&content(&[naming("db.example.com")])), 9999);
        wire.extend([0x17, 3, 3, 0, 2, 1, 1, 99, 99]);
        assert_eq!(asked(&wire, 9999), Ok(Some(host("db.example.com"))));
    }

    #[test]
    fn a_client_need_not_name_anybody() {
        let bare = content(&[extension(43, &[])]);
        assert_eq!(asked(&records(&message(&bare), 9999), 9999), Ok(Some(Asked::Nobody)));
        // TLS 1.2 and before: no extensions at all.
        let old = &content(&[])[..content(&[]).len() - 2];
        assert_eq!(asked(&records(&message(old), 9999), 9999), Ok(Some(Asked::Nobody)));
    }

    #[test]
    fn what_is_no_hosts_name_is_nobodys() {
        for name in ["192.0.2.1", "a b", "", "ex\u{e4}mple.com", "-"] {
            assert_eq!(
                asked(&records(&message(&content(&[naming(name)])), 9999), 9999),
                Ok(Some(Asked::Other)),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_malformed_or_has_two_meanings_is_refused() {
        let one = naming("a.example.com");
        let host = |name: &str| [&[HOST_NAME][..], &vector(2, name.as_bytes())].concat();
        let two_in_one = extension(SERVER_NAME, &vector(2, &[host("a.example.com"), host("b.example.com")].concat()));
        let other_kind = extension(SERVER_NAME, &vector(2, &[1, 0, 1, b'a']));
        let mut cut_short = content(std::slice::from_ref(&one));
        cut_short.pop();
        let mut too_long = content(std::slice::from_ref(&one));
        too_long.push(0);
        let contents = [
            content(&[one.clone(), naming("b.example.com")]),
            content(&[two_in_one]),
            content(&[other_kind]),
            cut_short,
            too_long,
        ];
        for content in contents {
            assert_eq!(asked(&records(&message(&content), 9999), 9999), Err(Malformed), "{content:?}");
        }
        for wire in [
            &[HANDSHAKE, 3, 1, 0, 0][..],
            &[HANDSHAKE, 3, 1, 0xff, 0xff],
            &[HANDSHAKE, 2, 1, 0, 9],
            &[HANDSHAKE, 3, 1, 0, 4, 2],
            &[HANDSHAKE, 3, 1, 0, 4, 1, 1, 0, 0],
            &[HANDSHAKE, 3, 1, 0, 1, 1, 0x15, 3, 1, 0, 2],
        ] {
            assert_eq!(asked(wire, 9999), Err(Malformed), "{wire:?}");
        }
    }

    #[test]
    fn a_real_one_is_understood() {
        let config = rustls::ClientConfig::builder_with_provider(tunnel_api::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = "db.example.com".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        assert_eq!(asked(&wire, 100), Ok(Some(host("db.example.com"))));
    }
}
