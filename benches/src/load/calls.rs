use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{PATIENCE, Spell};
use crate::origin;

/// How many calls were answered.
#[derive(Debug)]
pub struct Calls {
    /// A second.
    pub rate: f64,
    /// How many were not.
    pub failed: usize,
}

/// So many callers, each of which connects, says a byte, hears a byte and hangs up, over and over.
///
/// # Errors
/// If more than a tenth of the calls fail.
pub async fn calls(target: SocketAddr, callers: usize, spell: Spell) -> anyhow::Result<Calls> {
    let begins = Instant::now() + spell.warm_up;
    let mut callers: JoinSet<_> = (0..callers).map(|_| call_on(target, begins, spell.time)).collect();
    let (mut answered, mut failed) = (0, 0);
    while let Some(caller) = callers.join_next().await {
        let (more_answered, more_failed) = caller?;
        answered += more_answered;
        failed += more_failed;
    }
    if answered == 0 || failed > answered / 10 {
        bail!("{failed} calls failed beside {answered} that were answered");
    }
    Ok(Calls { rate: answered as f64 / begins.elapsed().as_secs_f64(), failed })
}

/// Goes on until at least one call has been answered or has failed, which may take longer than the time.
async fn call_on(target: SocketAddr, begins: Instant, time: Duration) -> (usize, usize) {
    let (mut answered, mut failed) = (0, 0);
    while answered + failed == 0 || begins.elapsed() < time {
        let outcome = timeout(PATIENCE, call(target)).await;
        let counts = usize::from(Instant::now() >= begins);
        match outcome {
            Ok(Ok(())) => answered += counts,
            _ => {
                failed += counts;
                // Perhaps the ports are used up for a moment.
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
    (answered, failed)
}

async fn call(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(origin::CALL).await?;
    stream.read_u8().await.map(drop)
}
