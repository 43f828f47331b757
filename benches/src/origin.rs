//! The service that everything leads to. The first byte of a connection says what it is for, so that one address does for all
//! measures; web clients begin with the `G` of GET.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::load::discard;

/// Sends, until nobody reads.
pub const SOURCE: u8 = b'S';
/// Reads and counts, until nobody sends.
pub const SINK: u8 = b'K';
/// Sends back what comes.
pub const ECHO: u8 = b'E';
/// Answers with one byte and lets the client hang up.
pub const CALL: u8 = b'C';
/// Answers each byte with the number of bytes that all sinks have read, big-endian.
pub const COUNT: u8 = b'Q';
/// Answers each request with a page of [`PAGE`] bytes.
pub const HTTP: u8 = b'G';

/// In bytes, without the head.
pub const PAGE: usize = 1024;

/// Serves until an accept fails for good, which it never does.
///
/// # Errors
/// If the address is taken.
pub async fn serve(listen: SocketAddr, announce: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(BACKLOG)?;
    announce(listener.local_addr()?);
    let sunk = Arc::new(AtomicU64::new(0));
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let sunk = sunk.clone();
                // A client that breaks off is merely gone.
                tokio::spawn(async move { drop(attend(client, &sunk).await) });
            }
            // It is the client's, or there are no descriptors for a while.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
        }
    }
}

async fn attend(mut client: TcpStream, sunk: &AtomicU64) -> io::Result<()> {
    client.set_nodelay(true)?;
    match client.read_u8().await? {
        SOURCE => pour(&client).await,
        SINK => {
            let _ = discard(&client, sunk).await;
            Ok(())
        }
        ECHO => echo(&client).await,
        CALL => {
            client.write_all(b"!").await?;
            discard(&client, &AtomicU64::new(0)).await
        }
        COUNT => loop {
            client.read_u8().await?;
            client.write_u64(sunk.load(Ordering::Relaxed)).await?;
        },
        HTTP => answer(&mut client).await,
        _ => Ok(()),
    }
}

/// Sends until nobody reads.
pub(crate) async fn pour(client: &TcpStream) -> io::Result<()> {
    static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];
    loop {
        client.writable().await?;
        match client.try_write(&ZEROS) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => tokio::task::coop::consume_budget().await,
        }
    }
}

/// An idle one holds no buffer: thousands of them wait here while tunnels are looked at.
async fn echo(client: &TcpStream) -> io::Result<()> {
    loop {
        client.readable().await?;
        let (buffer, read) = {
            let mut buffer = [0; 2048];
            match client.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => (buffer, read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match client.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Requests have no bodies, and come one after another.
async fn answer(client: &mut TcpStream) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {PAGE}\r\n\r\n");
    let response = [head.as_bytes(), &[b'.'; PAGE]].concat();
    let mut buffer = vec![0; 8 * 1024];
    // The first byte of the first request has been read.
    let mut have = 1;
    loop {
        while !buffer[..have].ends_with(b"\r\n\r\n") {
            match client.read(&mut buffer[have..]).await? {
                0 => return Ok(()),
                read => have += read,
            }
        }
        client.write_all(&response).await?;
        have = 0;
    }
}

/// For 5,000 clients at once.
const BACKLOG: u32 = 8192;
