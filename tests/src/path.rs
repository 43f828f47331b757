//! A path between two hosts: bytes take their time on it, and it can be cut without a word to either side.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

/// A path to a host, as a TCP relay; it ends when this is dropped.
#[derive(Debug)]
pub struct Path {
    addr: SocketAddr,
    is_cut: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

/// How a path is.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    /// How long a byte is on its way, one way.
    pub delay: Duration,
    /// How many are on their way at once, one way: with the delay, the path's bandwidth.
    pub in_flight: u32,
}

impl Path {
    /// A path to that host, which begins at a port of the kernel's choice.
    ///
    /// # Errors
    /// If there is no port for it.
    pub async fn to(target: SocketAddr, length: Length) -> io::Result<Self> {
        Self::between(([127, 0, 0, 1], 0).into(), target, length).await
    }

    /// A path to that host, which begins here.
    ///
    /// # Errors
    /// If that is taken.
    pub async fn between(here: SocketAddr, target: SocketAddr, length: Length) -> io::Result<Self> {
        // What is on its way is counted here and not in the kernel.
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(LITTLE)?;
        socket.set_reuseaddr(true)?;
        socket.bind(here)?;
        let listener = socket.listen(1024)?;
        let addr = listener.local_addr()?;
        let is_cut = watch::Sender::new(false);
        let task = tokio::spawn(accept(listener, target, length, is_cut.subscribe()));
        Ok(Self { addr, is_cut, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it begins.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing gets through.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// What was sent meanwhile gets through now, as TCP would see to.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, length: Length, is_cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(connect(near, target, length, is_cut.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(near: TcpStream, target: SocketAddr, length: Length, mut is_cut: watch::Receiver<bool>) {
    // Nobody is there as long as it is cut.
    let _ = is_cut.wait_for(|cut| !cut).await;
    let Ok(socket) = TcpSocket::new_v4() else { return };
    let _ = socket.set_recv_buffer_size(LITTLE);
    let Ok(far) = socket.connect(target).await else { return };
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(carry(near_in, far_out, length, is_cut.clone()), carry(far_in, near_out, length, is_cut));
}

/// One direction. A connection that breaks is merely over.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    length: Length,
    mut is_cut: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(length.in_flight as usize));
    let (sent, mut underway) = mpsc::unbounded_channel::<(Instant, Vec<u8>, OwnedSemaphorePermit)>();
    let send = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let Ok(place) = room.clone().acquire_many_owned(read as u32).await else { return };
            if sent.send((Instant::now() + length.delay, buffer[..read].to_vec(), place)).is_err() {
                return;
            }
        }
    };
    let arrive = async {
        while let Some((at, bytes, _place)) = underway.recv().await {
            sleep_until(at).await;
            let _ = is_cut.wait_for(|cut| !cut).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(send, arrive);
}

/// In bytes; the kernel doubles it.
const LITTLE: u32 = 64 * 1024;
