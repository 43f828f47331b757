use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tunnel_backends::{
    carrier::{ConnectionOffer, Declined, Offer, RequestOffer},
    relay::{BoxDuplex, Duplex},
};

use crate::{forward::Straight, serve::Serving};

/// A client's connection, as it comes out of the tunnel.
///
/// Dropping it closes it, as any TCP socket; use [`abort`](Self::abort) to make a truncated answer look like one. A panic that
/// drops it aborts it, and so does the end of a process that does not get to drop it.
pub struct TunnelStream {
    io: BoxDuplex,
    client_addr: SocketAddr,
    public_addr: SocketAddr,
    /// The tunnel is closed only after the last of them.
    _open: TaskTrackerToken,
    /// It knows already what its drop is to be.
    is_told: bool,
}

/// Who is at the other end of a [`TunnelStream`]. axum's and tonic's `ConnectInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where the client came from, as the tunnel server saw it.
    pub client_addr: SocketAddr,
}

impl TunnelStream {
    /// Where the client came from, as the tunnel server saw it.
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where the client connected to: the tunnel server's side of its connection.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Ends it so that the client sees a reset.
    pub fn abort(mut self) {
        self.abort_on_drop();
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if thread::panicking() {
            self.io.abort_on_drop();
        } else if !self.is_told {
            self.io.finish_on_drop();
        }
    }
}

/// A client, or one of its requests, on its way to the application. If it never gets there, it is left to another agent, or else
/// reset: it must not look like an empty answer.
#[derive(Debug)]
pub(crate) enum Offered {
    Connection(OfferedConnection),
    Request(OfferedRequest),
}

impl Offered {
    pub(crate) fn new(offer: Offer, open: TaskTrackerToken) -> Self {
        match offer {
            Offer::Connection(offer) => Self::Connection(OfferedConnection { offer, open }),
            Offer::Request(offer) => Self::Request(OfferedRequest { offer, open }),
        }
    }

    /// For who takes connections only.
    pub(crate) fn connection(self) -> Option<OfferedConnection> {
        match self {
            Self::Connection(connection) => Some(connection),
            Self::Request(_) => None,
        }
    }
}

/// Who takes them.
#[derive(Clone)]
pub(crate) enum Taker {
    /// A listener, at its own pace; or else whoever forwards what comes to it, at once and all.
    Listener(mpsc::Sender<Offered>, Straight),
    /// An app, at once and all.
    App(Arc<Serving>),
}

impl Taker {
    /// Whether it was taken. If not, nobody takes any more.
    pub(crate) async fn take(&self, offered: Offered) -> bool {
        match self {
            Self::Listener(listener, straight) => match (straight.forwarder(), offered) {
                (Some(forwarder), Offered::Connection(client)) => {
                    forwarder.take(client);
                    true
                }
                (_, offered) => listener.send(offered).await.is_ok(),
            },
            Self::App(serving) => {
                serving.take(offered);
                true
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct OfferedConnection {
    offer: ConnectionOffer,
    open: TaskTrackerToken,
}

impl OfferedConnection {
    pub(crate) fn client_addr(&self) -> SocketAddr {
        self.offer.client_addr
    }

    pub(crate) fn public_addr(&self) -> SocketAddr {
        self.offer.public_addr
    }

    /// Takes the client; fails if it has gone meanwhile.
    pub(crate) fn accept(self) -> io::Result<TunnelStream> {
        let (client_addr, public_addr) = (self.offer.client_addr, self.offer.public_addr);
        Ok(TunnelStream { io: self.offer.accept()?, client_addr, public_addr, _open: self.open, is_told: false })
    }

    /// Resets the client: what it came for cannot be had.
    pub(crate) fn refuse(self) {
        self.offer.decline(Declined::Refused);
    }
}

#[derive(Debug)]
pub(crate) struct OfferedRequest {
    pub(crate) offer: RequestOffer,
    /// The tunnel is closed only after the last of them.
    pub(crate) open: TaskTrackerToken,
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Duplex for TunnelStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_readable(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.io.has_aborted(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.io.socket()
    }

    fn abort_on_drop(&mut self) {
        self.is_told = true;
        self.io.abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        self.is_told = true;
        self.io.finish_on_drop();
    }
}

impl tonic::transport::server::Connected for TunnelStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { client_addr: self.client_addr }
    }
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream").field("client_addr", &self.client_addr).finish_non_exhaustive()
    }
}
