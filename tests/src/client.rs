//! Clients as plain as can be: they connect to a public address and speak bytes.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Where an address or a tunnel URI of a local server leads.
///
/// # Panics
/// If it is none such as `tcp://127.0.0.1:20000`.
pub fn at(uri: &str) -> SocketAddr {
    let (_, authority) = uri.split_once("://").expect("a URI");
    authority.parse().expect("an address and a port")
}

/// Connects, says all, finishes, and hears the answer to its end.
pub async fn ask(addr: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(addr).await?;
    socket.write_all(question).await?;
    socket.shutdown().await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// One HTTP/1.1 request on a connection of its own; gives the status and the body.
pub async fn get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    let mut socket = TcpStream::connect(addr).await?;
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}

/// Reads until the peer finishes or resets.
pub async fn hear_out(socket: &mut TcpStream) -> (Vec<u8>, Ended) {
    let mut heard = Vec::new();
    match socket.read_to_end(&mut heard).await {
        Ok(_) => (heard, Ended::Finished),
        Err(_) => (heard, Ended::Reset),
    }
}

/// How a connection ended, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Cleanly.
    Finished,
    /// By a reset.
    Reset,
}
