//! Local services, and clients of theirs.

use std::{io, net::SocketAddr, path::PathBuf};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    task::JoinHandle,
    time::timeout,
};

use crate::rig::LIMIT;

/// Echoes one client and gives back what it said.
pub(crate) async fn echo_once() -> (SocketAddr, JoinHandle<io::Result<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    (addr, echo_once_on(listener))
}

pub(crate) fn echo_once_on(listener: TcpListener) -> JoinHandle<io::Result<Vec<u8>>> {
    tokio::spawn(async move { echo(listener.accept().await?.0).await })
}

/// The same behind a Unix socket.
pub(crate) fn echo_once_at(socket: &SocketFile) -> JoinHandle<io::Result<Vec<u8>>> {
    let listener = UnixListener::bind(&socket.0).expect("a socket");
    tokio::spawn(async move { echo(listener.accept().await?.0).await })
}

async fn echo(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).await?;
    socket.write_all(&heard).await?;
    socket.shutdown().await?;
    Ok(heard)
}

/// Where a Unix socket can be bound, until this is dropped.
pub(crate) struct SocketFile(pub(crate) PathBuf);

impl SocketFile {
    pub(crate) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("tunnel-cli-{}-{name}.sock", std::process::id())))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Says something to the end and hears the answer to its end; and where it came from.
pub(crate) async fn ask(public: SocketAddr, question: &[u8]) -> (io::Result<Vec<u8>>, SocketAddr) {
    let mut client = TcpStream::connect(public).await.expect("a connection");
    let from = client.local_addr().expect("an address");
    let conversation = async {
        client.write_all(question).await?;
        client.shutdown().await?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.map(|_| answer)
    };
    (timeout(LIMIT, conversation).await.expect("an answer in time"), from)
}

/// A port of this host that nobody listens on as long as this is held: it is bound, and not listened at.
pub(crate) fn closed_port() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let addr = socket.local_addr().expect("an address");
    (socket, addr)
}
