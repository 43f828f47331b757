//! Services as they sit behind NAT.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// A service on a local port; it ends when this is dropped.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Origin {
    /// Sends back what it hears, as it hears it.
    pub async fn echo() -> io::Result<Self> {
        Self::echo_at(([127, 0, 0, 1], 0).into()).await
    }

    /// The same, at this port.
    pub async fn echo_at(addr: SocketAddr) -> io::Result<Self> {
        Self::serve(addr, async |mut socket| {
            let (mut read, mut write) = socket.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
        .await
    }

    /// Answers any HTTP request with this text.
    pub async fn hello(text: &'static str) -> io::Result<Self> {
        Self::serve(([127, 0, 0, 1], 0).into(), async move |mut socket| answer_http(&mut socket, text).await).await
    }

    /// Says this before it has heard anything, as SSH and SMTP do, then echoes.
    pub async fn speaks_first(greeting: &'static str) -> io::Result<Self> {
        Self::serve(([127, 0, 0, 1], 0).into(), async move |mut socket| {
            socket.write_all(greeting.as_bytes()).await?;
            let (mut read, mut write) = socket.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
        .await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    async fn serve<S, F>(addr: SocketAddr, service: S) -> io::Result<Self>
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                clients.spawn(service(socket));
            }
        });
        Ok(Self { addr, _task: AbortOnDropHandle::new(task) })
    }
}

/// Reads a request head and answers it.
pub async fn answer_http(socket: &mut TcpStream, text: &str) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await
}
