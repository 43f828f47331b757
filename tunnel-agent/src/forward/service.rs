use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::timeout};
use tunnel_backends::{
    relay::{BoxDuplex, Duplex},
    sockets,
};

use super::{Target, target::Place};

/// The local service, and whether it answered last time.
#[derive(Debug)]
pub(crate) struct Service {
    target: Target,
    is_down: AtomicBool,
}

impl Service {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, is_down: AtomicBool::new(false) }
    }

    /// Connects, and says the header first. A failure is logged, once until it works again.
    pub(crate) async fn connect(&self, header: Option<&[u8]>) -> io::Result<BoxDuplex> {
        let connected = self.try_connect(header).await;
        match &connected {
            Ok(_) => {
                if self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!(target = %self.target, "the local service answers again");
                }
            }
            Err(error) => {
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(target = %self.target, %error, "{}", what_to_check(error));
                }
            }
        }
        connected
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    async fn try_connect(&self, header: Option<&[u8]>) -> io::Result<BoxDuplex> {
        match self.target.place() {
            Place::Tcp { host, port } => greeted(connect_tcp(host, *port).await?, header).await,
            #[cfg(unix)]
            Place::Unix(path) => {
                let connected = timeout(CONNECT, connect_unix(path)).await;
                greeted(connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?, header).await
            }
        }
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<tokio::net::TcpStream> {
    let socket = sockets::connect_to(host, port, CONNECT).await?;
    sockets::reset_unless_finished(&socket)?;
    Ok(socket)
}

/// A listener with a full backlog is EAGAIN at once, and nothing tells when it has room again. On TCP the kernel would try on
/// by itself.
#[cfg(unix)]
async fn connect_unix(path: &std::path::Path) -> io::Result<tokio::net::UnixStream> {
    loop {
        match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL).await,
            connected => return connected,
        }
    }
}

/// The header is the first thing on a fresh socket: it fits its buffer, so this does not wait.
async fn greeted(mut service: impl Duplex + 'static, header: Option<&[u8]>) -> io::Result<BoxDuplex> {
    service.write_all(header.unwrap_or_default()).await?;
    Ok(Box::new(service))
}

/// Not every failure is the service's: this process may be out of descriptors, or the name server away.
pub(crate) fn what_to_check(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            "the local service does not answer; is it running there?"
        }
        io::ErrorKind::NotFound => "the local service is not there; is it running, and is this its place?",
        io::ErrorKind::TimedOut => "the local service does not take connections; does it hang, or is there a firewall?",
        io::ErrorKind::PermissionDenied => "the local service cannot be reached; may this user connect to it?",
        _ => "the local service cannot be reached",
    }
}

/// A local service answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(4);

/// Between two looks at a full backlog.
#[cfg(unix)]
const FULL: Duration = Duration::from_millis(20);
