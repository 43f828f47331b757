use std::{io, time::Duration};

use async_trait::async_trait;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tunnel_api::TunnelUri;

use crate::{
    carrier::{
        Answer, ClientsPerDialIn, ConnectionOffer, Declined, DialError, Dialler, Incoming, Offer, connect::connect,
    },
    relay::BoxDuplex,
    sockets,
};

/// Dials `tcp://` tunnels that were opened with `proxy_protocol`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialler;

#[async_trait]
impl Dialler for TcpDialler {
    async fn dial(&self, uri: &TunnelUri) -> Result<Box<dyn Incoming>, DialError> {
        let socket = connect(uri).await?;
        sockets::reset_unless_finished(&socket).map_err(DialError::Failed)?;
        Ok(Box::new(DialIn(Some(socket))))
    }

    fn clients(&self) -> ClientsPerDialIn {
        ClientsPerDialIn::One
    }
}

/// A connection that waits for its client.
struct DialIn(Option<TcpStream>);

#[async_trait]
impl Incoming for DialIn {
    async fn next(&mut self) -> Result<Option<Offer>, DialError> {
        let Some(mut socket) = self.0.take() else { return Ok(None) };
        let ProxiedAddress { source, destination, .. } = read_header(&mut socket).await?;
        // A v4 address beside one of v6 comes as one of v6.
        let (client, public) = (sockets::canonical(source), sockets::canonical(destination));
        Ok(Some(Offer::Connection(ConnectionOffer::new(client, public, Paired(socket)))))
    }
}

/// The wire has no words for an answer: not to be reset is one.
struct Paired(TcpStream);

impl Answer for Paired {
    fn accept(self: Box<Self>) -> io::Result<BoxDuplex> {
        Ok(Box::new(self.0))
    }

    fn decline(self: Box<Self>, _: Declined) {
        sockets::reset(self.0);
    }
}

/// Waits, for as long as it takes, for the header with which the server gives this dial-in a client; reads it and not a
/// byte more. Once it has begun it must be over within [`HEADER`].
async fn read_header(socket: &mut TcpStream) -> Result<ProxiedAddress, DialError> {
    socket.readable().await.map_err(DialError::Refused)?;
    match tokio::time::timeout(HEADER, read_begun_header(socket)).await {
        Ok(read) => read,
        Err(_) => Err(protocol("its PROXY header stops in the middle")),
    }
}

async fn read_begun_header(socket: &mut TcpStream) -> Result<ProxiedAddress, DialError> {
    let mut header = Vec::with_capacity(SHORTEST);
    read_at_least(FIXED, SHORTEST, socket, &mut header).await?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if !header.starts_with(SIGNATURE) || rest > LONGEST_REST {
        return Err(protocol("no PROXY v2 header comes first; was the tunnel opened with proxy_protocol?"));
    }
    read_at_least(FIXED + rest, FIXED + rest, socket, &mut header).await?;
    let (header, _) =
        ProxyHeader::parse(&header, ParseConfig::default()).map_err(|_| protocol("its PROXY header is malformed"))?;
    header.proxied_address().cloned().ok_or_else(|| protocol("its PROXY header names no client"))
}

/// Fills `header` up to `least` bytes, or as many as have come, but never beyond `most`.
async fn read_at_least(
    least: usize,
    most: usize,
    socket: &mut TcpStream,
    header: &mut Vec<u8>,
) -> Result<(), DialError> {
    while header.len() < least {
        let room = (most - header.len()) as u64;
        if (&mut *socket).take(room).read_buf(header).await.map_err(DialError::Refused)? == 0 {
            return Err(DialError::Refused(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(())
}

fn protocol(why: &str) -> DialError {
    DialError::Protocol(why.to_owned())
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version, family and the length of what follows.
const FIXED: usize = 16;

/// With two v4 addresses and ports. What is shorter names no client, so that nothing of it is lost by reading so much at once.
const SHORTEST: usize = FIXED + 12;

/// Two v6 addresses and ports are 36 bytes; the rest is room for extensions we do not read.
const LONGEST_REST: usize = 1024;

/// From the first byte of the header to its last.
const HEADER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::proxy;

    /// A dial-in, and the server's side of it.
    async fn dialled() -> (DialIn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.set_nodelay(true).unwrap();
        (DialIn(Some(dialled)), server)
    }

    async fn read_from(mut dial_in: DialIn) -> (SocketAddr, SocketAddr, String) {
        let Offer::Connection(offer) = dial_in.next().await.expect("an offer").expect("a client") else {
            panic!("a request");
        };
        let (client, public) = (offer.client_addr, offer.public_addr);
        let mut said = String::new();
        offer.accept().unwrap().read_to_string(&mut said).await.unwrap();
        (client, public, said)
    }

    #[tokio::test]
    async fn a_header_is_read_to_its_end_and_not_a_byte_further_however_it_comes() {
        for (client, public) in [("192.0.2.1:2", "192.0.2.3:4"), ("[2001:db8::1]:2", "[2001:db8::2]:4")] {
            let (client, public) = (client.parse().unwrap(), public.parse().unwrap());
            let said = [&proxy::header(client, public)[..], b"hello"].concat();
            for piece in [1, FIXED, SHORTEST, said.len()] {
                let (dial_in, mut server) = dialled().await;
                let reading = tokio::spawn(read_from(dial_in));
                for piece in said.chunks(piece) {
                    server.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(server);
                assert_eq!(reading.await.unwrap(), (client, public, "hello".to_owned()), "in pieces of {piece}");
            }
        }
    }

    #[tokio::test]
    async fn what_names_no_client_is_none() {
        let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
        let too_long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
        for (said, why) in [
            (&local[..], "names no client"),
            (&[&local[..], b"a greeting of the client's"].concat(), "names no client"),
            (&too_long, "no PROXY v2 header comes first"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no PROXY v2 header comes first"),
        ] {
            let (mut dial_in, mut server) = dialled().await;
            server.write_all(said).await.unwrap();
            let error = dial_in.next().await.map(drop).expect_err("no client");
            assert!(matches!(&error, DialError::Protocol(it) if it.contains(why)), "{error}");
        }
    }

    /// With nothing else to do, the paused clock goes on by itself.
    #[tokio::test(start_paused = true)]
    async fn a_header_that_stops_in_the_middle_is_not_waited_for() {
        let header = proxy::header("192.0.2.1:2".parse().unwrap(), "192.0.2.3:4".parse().unwrap());
        for length in [1, FIXED, header.len() - 1] {
            let (mut dial_in, mut server) = dialled().await;
            server.write_all(&header[..length]).await.unwrap();
            let error = dial_in.next().await.map(drop).expect_err("no client");
            assert!(matches!(&error, DialError::Protocol(it) if it.contains("stops in the middle")), "{error}");

            let (mut dial_in, mut server) = dialled().await;
            server.write_all(&header[..length]).await.unwrap();
            drop(server);
            let error = dial_in.next().await.map(drop).expect_err("no client");
            assert!(matches!(error, DialError::Refused(_)), "{error}");
        }
    }
}
