use std::{
    fs, io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::oneshot,
    time::sleep,
};

use super::{
    pattern::Pattern,
    plan::{Expect, Hear, Script, Then},
};

/// Plays one end of a connection, and says what was wrong with it. `greeted` is how writing to it went so far.
pub(super) async fn play(
    mut socket: TcpStream,
    greeted: io::Result<()>,
    script: &Script,
    says: &mut Pattern,
    hears: &mut Pattern,
) -> Result<(), String> {
    let cut = AtomicBool::new(greeted.is_err());
    let (at_end, end) = oneshot::channel();
    let (mut read, mut write) = socket.split();
    // In one task, so that it is certain which of the two met a reset first: it is told once (see `hear`).
    let (said, heard) =
        tokio::join!(say(&mut write, script, says, &cut, end), hear(&mut read, script, hears, &cut, at_end));
    let heard = heard?;
    match script.then {
        Then::Close => {}
        Then::Reset => reset(&socket)?,
        Then::ResetOnceHeard => {
            wait_until_acknowledged(&socket).await.map_err(|error| format!("cannot see what is queued: {error}"))?;
            reset(&socket)?;
        }
    }
    judge(script.expect, hears.position(), &heard)?;
    match greeted.and(said) {
        Err(error) if !script.may_be_cut => Err(format!("could not say all it had to say: {error}")),
        _ => Ok(()),
    }
}

/// How hearing ended.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Enough,
    End,
    Reset(String),
}

async fn say(
    write: &mut WriteHalf<'_>,
    script: &Script,
    pattern: &mut Pattern,
    cut: &AtomicBool,
    end: oneshot::Receiver<()>,
) -> io::Result<()> {
    if script.after_the_end && end.await.is_err() {
        return Ok(());
    }
    let said = async {
        let mut left = script.say;
        let mut bytes = vec![0; left.min(CHUNK as u64) as usize];
        while left > 0 {
            let some = rand::rng().random_range(1..=left.min(CHUNK as u64));
            let bytes = &mut bytes[..some as usize];
            pattern.fill(bytes);
            write.write_all(bytes).await?;
            left -= some;
        }
        if script.finish { write.shutdown().await } else { Ok(()) }
    };
    let said = said.await;
    if said.is_err() {
        cut.store(true, Ordering::Relaxed);
    }
    said
}

/// A reset is told once: if our write has met it, reading gives an end that is none.
async fn hear(
    read: &mut ReadHalf<'_>,
    script: &Script,
    pattern: &mut Pattern,
    cut: &AtomicBool,
    at_end: oneshot::Sender<()>,
) -> Result<Heard, String> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let most = match script.hear {
            Hear::ToTheEnd => bytes.len() as u64,
            Hear::Bytes(wanted) => (wanted - pattern.position()).min(bytes.len() as u64),
        };
        if most == 0 {
            return Ok(Heard::Enough);
        }
        match read.read(&mut bytes[..most as usize]).await {
            Ok(0) if cut.load(Ordering::Relaxed) && matches!(script.expect, Expect::Reset(_)) => {
                return Ok(Heard::Reset("met by a write".to_owned()));
            }
            Ok(0) => {
                // Nobody waits for it in scripts that talk at once.
                let _ = at_end.send(());
                return Ok(Heard::End);
            }
            Ok(some) => {
                pattern.check(&bytes[..some]).map_err(|at| format!("heard a wrong byte at {at}"))?;
            }
            Err(error) => return Ok(Heard::Reset(error.to_string())),
        }
    }
}

fn judge(expect: Expect, bytes: u64, heard: &Heard) -> Result<(), String> {
    match (expect, heard) {
        (Expect::Whole(all), Heard::End) if bytes == all => Ok(()),
        (Expect::Whole(all), Heard::End) => Err(format!("heard a clean end after {bytes} of {all} bytes")),
        (Expect::Whole(all), Heard::Reset(why)) => {
            Err(format!("heard a reset ({why}) after {bytes} of {all} bytes of what was finished"))
        }
        (Expect::Reset(most), Heard::Reset(_)) if bytes <= most => Ok(()),
        (Expect::Reset(_), Heard::End) => Err(format!("heard a clean end after {bytes} bytes of what was reset")),
        (Expect::Bytes(_), Heard::Enough) => Ok(()),
        (expect, heard) => Err(format!("heard {heard:?} after {bytes} bytes instead of {expect:?}")),
    }
}

fn reset(socket: &TcpStream) -> Result<(), String> {
    socket.set_zero_linger().map_err(|error| format!("cannot be reset: {error}"))
}

/// Until nothing that was written, the end included, is unacknowledged any more.
async fn wait_until_acknowledged(socket: &TcpStream) -> io::Result<()> {
    let (local, peer) = (socket.local_addr()?, socket.peer_addr());
    // Without a peer it is gone already.
    let Ok(peer) = peer else { return Ok(()) };
    while unacknowledged(local, peer)? > 0 {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The kernel's own count, which is otherwise to be had by an unsafe ioctl only.
fn unacknowledged(local: SocketAddr, peer: SocketAddr) -> io::Result<u64> {
    let (local, peer) = (as_the_kernel_writes(local), as_the_kernel_writes(peer));
    let table = fs::read_to_string("/proc/self/net/tcp")?;
    for line in table.lines() {
        let mut words = line.split_whitespace().skip(1);
        if words.next() != Some(local.as_str()) || words.next() != Some(peer.as_str()) {
            continue;
        }
        let queued = words.nth(1).and_then(|queues| queues.split_once(':'));
        return Ok(queued.and_then(|(sent, _)| u64::from_str_radix(sent, 16).ok()).unwrap_or(0));
    }
    Ok(0)
}

fn as_the_kernel_writes(addr: SocketAddr) -> String {
    match addr.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), addr.port()),
        std::net::IpAddr::V6(_) => String::new(),
    }
}

const CHUNK: usize = 64 * 1024;
