//! Load on one address, from one process: what clients do, and what is read off them while they do it.

mod bulk;
mod calls;
mod crowd;
mod ping;
mod web;

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{io::AsyncWriteExt, net::TcpStream};

pub use bulk::{Bulk, Way};
pub use calls::{Calls, calls};
pub use crowd::{Crowd, Stalled};
pub use ping::{Pings, ping};
pub use web::{Web, page, requests};

/// How long to load before anything is read, and how long after.
#[derive(Debug, Clone, Copy)]
pub struct Spell {
    /// Nothing of it counts.
    pub warm_up: Duration,
    /// All of it counts.
    pub time: Duration,
}

/// A connection for this purpose: one of the origin's bytes.
async fn connect(target: SocketAddr, purpose: u8) -> anyhow::Result<TcpStream> {
    let connected = async {
        let mut stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        stream.write_u8(purpose).await?;
        io::Result::Ok(stream)
    };
    let connected = tokio::time::timeout(PATIENCE, connected).await.context("no connection within 10 s")?;
    connected.with_context(|| format!("cannot connect to {target}"))
}

/// Reads all there is and counts it, until the end.
pub(crate) async fn discard(stream: &TcpStream, count: &AtomicU64) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match BUFFER.with_borrow_mut(|buffer| stream.try_read(buffer)) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                count.fetch_add(read as u64, Ordering::Relaxed);
                tokio::task::coop::consume_budget().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

thread_local! {
    /// One for each thread and not for each connection, so that it stays in the cache.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// For any one thing that a subject is asked for.
const PATIENCE: Duration = Duration::from_secs(10);
