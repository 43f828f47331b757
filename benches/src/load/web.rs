use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{PATIENCE, Spell};
use crate::spread::percentile;

/// How requests were answered.
#[derive(Debug)]
pub struct Web {
    /// How many a second.
    pub rate: f64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

/// So many web clients, each of which keeps its connection and asks for a page as soon as it has the one before.
///
/// # Errors
/// If any of them gets none.
pub async fn requests(target: SocketAddr, host: &str, clients: usize, spell: Spell) -> anyhow::Result<Web> {
    let request = get(host);
    let begins = Instant::now() + spell.warm_up;
    let mut clients: JoinSet<_> = (0..clients).map(|_| ask_on(target, request.clone(), begins, spell.time)).collect();
    let mut times = Vec::new();
    while let Some(client) = clients.join_next().await {
        times.extend(client?.context("a page that does not come")?);
    }
    let rate = times.len() as f64 / begins.elapsed().as_secs_f64();
    times.sort_unstable();
    Ok(Web { rate, p50: percentile(&times, 50), p99: percentile(&times, 99) })
}

/// One page.
///
/// # Errors
/// If it does not come.
pub async fn page(target: SocketAddr, host: &str) -> io::Result<()> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
    timeout(PATIENCE, ask(&mut stream, get(host).as_bytes(), &mut vec![0; ANSWER])).await?
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: load\r\naccept: */*\r\n\r\n")
}

/// Goes on until at least one page has come, which may take longer than the time.
async fn ask_on(target: SocketAddr, request: String, begins: Instant, time: Duration) -> io::Result<Vec<Duration>> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
    stream.set_nodelay(true)?;
    let (mut buffer, mut times) = (vec![0; ANSWER], Vec::new());
    while times.is_empty() || begins.elapsed() < time {
        let sent = Instant::now();
        timeout(PATIENCE, ask(&mut stream, request.as_bytes(), &mut buffer)).await??;
        if Instant::now() >= begins {
            times.push(sent.elapsed());
        }
    }
    Ok(times)
}

async fn ask(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    let (mut have, mut whole) = (0, None);
    while whole.is_none_or(|whole| have < whole) {
        match stream.read(&mut buffer[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => have += read,
        }
        if whole.is_none() {
            whole = length(&buffer[..have])?;
        }
    }
    Ok(())
}

/// How long a whole answer is, once its head is there.
fn length(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&answer[..head]);
    let (status, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
    if !status.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("the answer is {status}")));
    }
    let field = fields.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = field
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse::<usize>().ok());
    length.map(|length| Some(head + 4 + length)).ok_or_else(|| io::Error::other("an answer without its length"))
}

/// The longest answer that is understood.
const ANSWER: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").unwrap(), Some(38 + 2));
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert!(length(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n").is_err());
        assert!(length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
