use std::{io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, lookup_host},
};
use tunnel_api::TunnelUri;

use crate::{
    carrier::{DialError, Dialled, Dialler},
    sockets,
};

/// Dials `tcp://` tunnels that were opened with `proxy_protocol`.
#[derive(Debug, Clone, Copy)]
pub struct TcpDialler {
    /// How long one attempt to connect may take.
    pub connect_within: Duration,
}

impl Default for TcpDialler {
    fn default() -> Self {
        Self { connect_within: Duration::from_secs(4) }
    }
}

#[async_trait]
impl Dialler for TcpDialler {
    async fn dial(&self, uri: &TunnelUri, connected: Box<dyn FnOnce() + Send>) -> Result<Dialled, DialError> {
        let mut socket = self.connect(uri).await?;
        connected();
        let ProxiedAddress { source, destination, .. } = read_header(&mut socket).await?;
        Ok(Dialled { io: Box::new(socket), client_addr: source, public_addr: destination })
    }
}

impl TcpDialler {
    async fn connect(&self, uri: &TunnelUri) -> Result<TcpStream, DialError> {
        let host = uri.host();
        let addrs: Vec<SocketAddr> = match host.ip() {
            Some(ip) => vec![SocketAddr::new(ip, uri.port())],
            None => lookup_host((host.to_string(), uri.port())).await.map_err(DialError::Failed)?.collect(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for addr in addrs {
            match sockets::connect(addr, self.connect_within).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(match last.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Refused(last),
            io::ErrorKind::TimedOut => DialError::Silent(last),
            _ => DialError::Failed(last),
        })
    }
}

/// Waits, for as long as it takes, for the header with which the server gives this dial-in a client; reads it and not a
/// byte more. Once it has begun it must be over within [`HEADER`].
async fn read_header(socket: &mut TcpStream) -> Result<ProxiedAddress, DialError> {
    socket.readable().await.map_err(DialError::Refused)?;
    match tokio::time::timeout(HEADER, read_begun_header(socket)).await {
        Ok(read) => read,
        Err(_) => Err(DialError::Protocol("its PROXY header stops in the middle")),
    }
}

async fn read_begun_header(socket: &mut TcpStream) -> Result<ProxiedAddress, DialError> {
    let mut header = vec![0; FIXED];
    socket.read_exact(&mut header).await.map_err(DialError::Refused)?;
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if !header.starts_with(SIGNATURE) || rest > LONGEST_REST {
        return Err(DialError::Protocol("no PROXY v2 header comes first; was the tunnel opened with proxy_protocol?"));
    }
    header.resize(FIXED + rest, 0);
    socket.read_exact(&mut header[FIXED..]).await.map_err(DialError::Refused)?;
    let (header, _) = ProxyHeader::parse(&header, ParseConfig::default())
        .map_err(|_| DialError::Protocol("its PROXY header is malformed"))?;
    header.proxied_address().cloned().ok_or(DialError::Protocol("its PROXY header names no client"))
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version, family and the length of what follows.
const FIXED: usize = 16;

/// Two v6 addresses and ports are 36 bytes; the rest is room for extensions we do not read.
const LONGEST_REST: usize = 1024;

/// From the first byte of the header to its last.
const HEADER: Duration = Duration::from_secs(5);
