use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{PATIENCE, connect, discard};
use crate::origin;

/// Which way bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// From the origin to the clients.
    Down,
    /// From the clients to the origin.
    Up,
}

/// Transfers that go on until this is dropped.
#[derive(Debug)]
pub struct Bulk {
    counts: Vec<Arc<AtomicU64>>,
    /// Of uploads the origin knows how much has arrived; what we have sent may still be anywhere.
    origin: Option<TcpStream>,
    transfers: JoinSet<io::Result<()>>,
}

impl Bulk {
    /// So many transfers through `target`, which leads to the origin at `origin`.
    ///
    /// # Errors
    /// If there is no connection to be had.
    pub async fn start(target: SocketAddr, origin: SocketAddr, way: Way, transfers: usize) -> anyhow::Result<Self> {
        let purpose = if way == Way::Down { origin::SOURCE } else { origin::SINK };
        let asked = if way == Way::Up { Some(connect(origin, origin::COUNT).await?) } else { None };
        let mut bulk = Self { counts: Vec::new(), origin: asked, transfers: JoinSet::new() };
        for _ in 0..transfers {
            let stream = connect(target, purpose).await?;
            let count = Arc::<AtomicU64>::default();
            bulk.counts.push(count.clone());
            bulk.transfers.spawn(transfer(stream, way, count));
        }
        Ok(bulk)
    }

    /// What has arrived so far, of each transfer, or of all together where only the origin knows.
    ///
    /// # Errors
    /// If a transfer has broken, or nobody knows.
    pub async fn arrived(&mut self) -> anyhow::Result<Vec<u64>> {
        if let Some(ended) = self.transfers.join_next().now_or_never().flatten() {
            bail!("a transfer has ended: {ended:?}");
        }
        let Some(origin) = &mut self.origin else {
            return Ok(self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect());
        };
        let answer = async {
            origin.write_u8(b'?').await?;
            origin.read_u64().await
        };
        Ok(vec![timeout(PATIENCE, answer).await.context("the origin does not answer")??])
    }

    /// How fast each of them is, in bytes a second, over that time.
    ///
    /// # Errors
    /// If a transfer breaks.
    pub async fn rates(&mut self, time: Duration) -> anyhow::Result<Vec<f64>> {
        self.rates_during(sleep(time).boxed()).await.map(|(rates, ())| rates)
    }

    /// The same for as long as something else takes.
    ///
    /// # Errors
    /// If a transfer breaks.
    pub async fn rates_during<T>(&mut self, something: BoxFuture<'_, T>) -> anyhow::Result<(Vec<f64>, T)> {
        let (since, before) = (Instant::now(), self.arrived().await?);
        let result = something.await;
        let (mut took, mut after) = (since.elapsed(), self.arrived().await?);
        // A moment may be too short for anything to arrive on a long path.
        while after == before && took < PATIENCE {
            sleep(Duration::from_millis(10)).await;
            (took, after) = (since.elapsed(), self.arrived().await?);
        }
        let took = took.as_secs_f64();
        let rates: Vec<_> = after.iter().zip(before).map(|(after, before)| (after - before) as f64 / took).collect();
        if rates.iter().sum::<f64>() == 0.0 {
            bail!("nothing has arrived in {took:.1} s");
        }
        Ok((rates, result))
    }
}

async fn transfer(stream: TcpStream, way: Way, count: Arc<AtomicU64>) -> io::Result<()> {
    match way {
        Way::Down => discard(&stream, &count).await,
        Way::Up => origin::pour(&stream).await,
    }
}
