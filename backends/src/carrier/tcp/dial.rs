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
    let mut header = vec![0; FIXED];
    socket.read_exact(&mut header).await.map_err(DialError::Refused)?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if !header.starts_with(SIGNATURE) || rest > LONGEST_REST {
        return Err(protocol("no PROXY v2 header comes first; was the tunnel opened with proxy_protocol?"));
    }
    header.resize(FIXED + rest, 0);
    socket.read_exact(&mut header[FIXED..]).await.map_err(DialError::Refused)?;
    let (header, _) =
        ProxyHeader::parse(&header, ParseConfig::default()).map_err(|_| protocol("its PROXY header is malformed"))?;
    header.proxied_address().cloned().ok_or_else(|| protocol("its PROXY header names no client"))
}

fn protocol(why: &str) -> DialError {
    DialError::Protocol(why.to_owned())
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version, family and the length of what follows.
const FIXED: usize = 16;

/// Two v6 addresses and ports are 36 bytes; the rest is room for extensions we do not read.
const LONGEST_REST: usize = 1024;

/// From the first byte of the header to its last.
const HEADER: Duration = Duration::from_secs(5);
