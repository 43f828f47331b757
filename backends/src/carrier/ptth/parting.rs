//! How a session's connection is closed in order. Where something that the peer has said is unread, the kernel closes with a reset,
//! and throws away what it has yet to send; and something is said until the last moment: that there is room, that we are there.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Sleep, sleep},
};

/// Waits for the peer's end after ours, where that is known to be one in order.
#[derive(Debug, Default)]
pub(super) struct Parting {
    in_order: Arc<AtomicBool>,
    until: Option<Pin<Box<Sleep>>>,
    unheard: usize,
}

/// For whoever knows that the session ends in order.
#[derive(Debug, Clone)]
pub(super) struct Farewell(Arc<AtomicBool>);

impl Farewell {
    /// Nothing new will be said: what still is has to arrive.
    pub(super) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Parting {
    pub(super) fn farewell(&self) -> Farewell {
        Farewell(self.in_order.clone())
    }

    /// Whether our end has been said, and its peer's is waited for.
    pub(super) fn has_begun(&self) -> bool {
        self.until.is_some()
    }

    /// Our end has just been said.
    pub(super) fn begin(&mut self) {
        if self.in_order.load(Ordering::Relaxed) {
            self.until = Some(Box::pin(sleep(PATIENCE)));
        }
    }

    /// Ready when the peer has ended, too, or will not: reads what it says, and throws it away.
    pub(super) fn poll_over(&mut self, mut io: Pin<&mut (impl AsyncRead + ?Sized)>, cx: &mut Context<'_>) -> Poll<()> {
        if self.until.as_mut().is_none_or(|until| until.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        while self.unheard < MOST {
            let mut space = [0; 4096];
            let mut space = ReadBuf::new(&mut space);
            if ready!(io.as_mut().poll_read(cx, &mut space)).is_err() || space.filled().is_empty() {
                return Poll::Ready(());
            }
            self.unheard += space.filled().len();
        }
        Poll::Ready(())
    }
}

/// A peer that is there ends as soon as it has heard all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Without streams a peer has little to say. In bytes.
const MOST: usize = 256 * 1024;

#[cfg(feature = "serve")]
#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpSocket, TcpStream},
        time::Instant,
    };

    use super::{super::wire::Wire, *};
    use crate::{link::Link, replay::Replay, sockets};

    /// A session's connection, and a peer that takes little at once.
    async fn pair() -> (Wire, TcpStream) {
        let listener = sockets::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let peer = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        (Wire::to_answerer(Replay::new(bytes::Bytes::new(), Link::Plain(accepted))), peer)
    }

    #[tokio::test]
    async fn a_peer_that_talks_on_and_hears_late_hears_all() {
        let (mut wire, mut peer) = pair().await;
        let said = vec![7; 100 * 1024];
        wire.write_all(&said).await.unwrap();
        wire.flush().await.unwrap();
        peer.write_all(b"there is room").await.unwrap();
        wire.farewell().say();
        let closing = tokio::spawn(async move { wire.shutdown().await });
        // What it says has come by then, and is followed by more.
        let mut heard = vec![0; 1];
        peer.read_exact(&mut heard).await.unwrap();
        peer.write_all(b"there is more room").await.unwrap();
        peer.read_to_end(&mut heard).await.expect("an end and no reset");
        assert_eq!(heard, said);
        drop(peer);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_end_is_not_waited_for_for_ever() {
        let (mut wire, _peer) = pair().await;
        wire.farewell().say();
        let begun = Instant::now();
        wire.shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_not_in_order_waits_for_nobody() {
        let (mut wire, _peer) = pair().await;
        let begun = Instant::now();
        wire.shutdown().await.unwrap();
        assert!(begun.elapsed().is_zero());
    }
}
