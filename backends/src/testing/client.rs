//! What clients do, and what either end says and hears.

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tunnel_api::PublicAddress;

use super::{eventually, soon};
use crate::{relay::Duplex as _, sockets};

/// A client at this address.
pub async fn connect(address: &PublicAddress) -> TcpStream {
    try_connect(address).await.expect("a connection to the public address")
}

/// A client at this address, if there is anybody.
pub async fn try_connect(address: &PublicAddress) -> io::Result<TcpStream> {
    soon("an answer at the public address", TcpStream::connect(socket_addr(address))).await
}

/// A client that holds next to nothing of what is on its way to it: what it has not read is with the server.
pub async fn connect_with_little_room(address: &PublicAddress) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("little room");
    let connected = soon("an answer at the public address", socket.connect(socket_addr(address))).await;
    connected.expect("a connection to the public address")
}

/// Where that is.
pub fn socket_addr(address: &PublicAddress) -> SocketAddr {
    SocketAddr::new(address.host().ip().expect("an address on loopback"), address.port())
}

/// Whether nobody listens there.
pub async fn refuses(addr: SocketAddr) -> bool {
    let answer = soon("an answer from a port", TcpStream::connect(addr)).await;
    matches!(answer, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Returns when nobody listens there any more. Whoever gets through until then must be reset.
pub async fn until_refused(addr: SocketAddr) {
    eventually(format!("{addr} to refuse connections"), async || match TcpStream::connect(addr).await {
        Ok(mut connection) => {
            let heard = hear(&mut connection).await;
            assert_eq!(heard, Heard::reset_after(&[]), "who came too late was not reset");
            false
        }
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    })
    .await;
}

/// Aborts, once all the client has said is on its way: an abort may destroy what is not.
pub async fn abort(mut client: TcpStream) {
    soon("what the client said to leave", poll_fn(|cx| client.poll_sent(cx))).await;
    sockets::reset(client);
}

/// Says all of it.
pub async fn say(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    soon("bytes to be taken", io.write_all(bytes)).await.expect("a peer that takes bytes");
}

/// Says all of it and that it is all.
pub async fn say_all(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    say(io, bytes).await;
    soon("an end to be taken", io.shutdown()).await.expect("a peer that takes an end");
}

/// Hears exactly so many bytes.
pub async fn hear_exactly(io: &mut (impl AsyncRead + Unpin), bytes: usize) -> Vec<u8> {
    let mut heard = vec![0; bytes];
    let read = soon(format!("{bytes} bytes"), io.read_exact(&mut heard)).await;
    read.unwrap_or_else(|error| panic!("{bytes} bytes were to come, but: {error}"));
    heard
}

/// Hears until the peer has ended.
pub async fn hear(io: &mut (impl AsyncRead + Unpin)) -> Heard {
    let mut bytes = Vec::new();
    let end = soon("the peer's end", io.read_to_end(&mut bytes)).await;
    Heard { bytes, end: end.map(|_| ()).map_err(|error| error.kind()) }
}

/// What was heard, and how it ended.
#[derive(PartialEq, Eq)]
pub struct Heard {
    /// All the bytes.
    pub bytes: Vec<u8>,
    /// The peer finished, or it did not.
    pub end: Result<(), ErrorKind>,
}

impl Heard {
    /// All of this and then an end.
    pub fn finished_after(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), end: Ok(()) }
    }

    /// All of this and then a reset.
    pub fn reset_after(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), end: Err(ErrorKind::ConnectionReset) }
    }
}

/// Bytes of which no two stretches are the same, and other ones for each `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    // xorshift64; any state but zero will do.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.bytes[..self.bytes.len().min(8)];
        write!(f, "{} bytes beginning with {first:02x?}, then {:?}", self.bytes.len(), self.end)
    }
}
