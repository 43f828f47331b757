use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::oneshot;

use super::{PATIENCE, Spell};
use crate::{origin, spread::percentile};

/// How long words took to come back.
#[derive(Debug)]
pub struct Pings {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// How many there were.
    pub count: usize,
}

/// Sends so many bytes and waits for their echo, over and over on one connection. In a thread of its own and without a runtime,
/// which would add its own wake-ups; on one core, if that is asked for.
///
/// # Errors
/// If an echo does not come.
pub async fn ping(target: SocketAddr, size: usize, spell: Spell, core: Option<usize>) -> anyhow::Result<Pings> {
    let (done, heard) = oneshot::channel();
    thread::spawn(move || {
        // Whoever waits may be gone.
        let _ = done.send(play(target, size, spell, core));
    });
    let mut times = heard.await.context("the pinging thread is gone")?.context("an echo that does not come")?;
    times.sort_unstable();
    Ok(Pings { p50: percentile(&times, 50), p99: percentile(&times, 99), count: times.len() })
}

fn play(target: SocketAddr, size: usize, spell: Spell, core: Option<usize>) -> io::Result<Vec<Duration>> {
    if let Some(core) = core {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores)?;
    }
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[origin::ECHO])?;
    let (mut word, mut times) = (vec![0; size], Vec::with_capacity(1 << 16));
    let since = Instant::now();
    // Beside bulk one alone may take longer than the spell.
    while times.is_empty() || since.elapsed() < spell.warm_up + spell.time {
        let sent = Instant::now();
        stream.write_all(&word)?;
        stream.read_exact(&mut word)?;
        if since.elapsed() >= spell.warm_up {
            times.push(sent.elapsed());
        }
    }
    Ok(times)
}
