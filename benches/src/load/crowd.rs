use std::net::SocketAddr;

use anyhow::Context as _;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, connect};
use crate::origin;

/// Clients that have said a word each, heard it, and are silent since.
#[derive(Debug, Default)]
pub struct Crowd {
    clients: Vec<TcpStream>,
}

impl Crowd {
    /// Grows to so many.
    ///
    /// # Errors
    /// If one of them is not heard.
    pub async fn grow_to(&mut self, size: usize, target: SocketAddr) -> anyhow::Result<()> {
        let new = stream::iter(self.clients.len()..size).map(|_| silent(target)).buffer_unordered(AT_ONCE);
        let new: Vec<_> = new.try_collect().await.with_context(|| format!("{size} clients at once"))?;
        self.clients.extend(new);
        Ok(())
    }
}

async fn silent(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(target, origin::ECHO).await?;
    let word = async {
        stream.write_u8(b'?').await?;
        stream.read_u8().await
    };
    timeout(PATIENCE, word).await.context("no echo within 10 s")??;
    Ok(stream)
}

/// Clients to which much is sent, and who read nothing.
#[derive(Debug)]
pub struct Stalled {
    _clients: Vec<TcpStream>,
}

impl Stalled {
    /// So many of them.
    ///
    /// # Errors
    /// If there is no connection to be had.
    pub async fn start(target: SocketAddr, clients: usize) -> anyhow::Result<Self> {
        let clients = stream::iter(0..clients).then(|_| connect(target, origin::SOURCE));
        Ok(Self { _clients: clients.try_collect().await? })
    }
}

/// Fewer than wait for an agent at once by default, so that it is not the waiting that is looked at.
const AT_ONCE: usize = 32;
