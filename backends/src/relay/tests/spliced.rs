//! What is moved within the kernel is told from what is copied by nothing but its speed.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::event::PollFlags;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, tcp::OwnedWriteHalf},
    select,
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use super::{
    PATIENT,
    far_ends::{connection, finish_after, hear, say},
    limited_in_parallel,
};
use crate::{
    relay::{Duplex, Pace, Progress, RelayEnd, Side, relay, stands::stands},
    sockets::reset,
};

/// One end of a relay, the other one, and how the relay ends.
async fn relayed<D: Duplex + 'static>(
    near: impl FnOnce(TcpStream) -> D,
) -> (TcpStream, TcpStream, tokio::task::JoinHandle<RelayEnd>) {
    let ((client, near_client), (agent, near_agent)) = (connection().await, connection().await);
    let near_client = near(near_client);
    let end = tokio::spawn(async move {
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        relay(near_client, near_agent, &progress, &Pace::default(), &PATIENT, &cancel).await
    });
    (client, agent, end)
}

/// A splice that has moved something before it fails says so, and keeps the failure to itself.
#[test]
fn a_client_that_breaks_off_a_download_has_aborted() {
    limited_in_parallel(async {
        for round in 0..ROUNDS {
            let (mut client, agent, end) = relayed(|near| near).await;
            let (mut hears, mut says) = agent.into_split();
            let saying = tokio::spawn(async move {
                let piece = vec![7; 256 * 1024];
                loop {
                    if let Err(error) = says.write_all(&piece).await {
                        return error.kind();
                    }
                }
            });
            client.write_all(b"half a requ").await.expect("a relay");
            let mut heard = vec![0; 64 * 1024];
            for _ in 0..32 + round % 16 {
                client.read_exact(&mut heard).await.expect("a download");
            }
            reset(client);
            let mut request = Vec::new();
            let heard = hears.read_to_end(&mut request).await.map_err(|error| error.kind());
            // Whichever of the two comes first is told, and the other one sees an end then.
            let told = (heard, saying.await.expect("no panic"));
            let is_abort = matches!(told, (Err(ErrorKind::ConnectionReset), _) | (_, ErrorKind::ConnectionReset));
            assert!(is_abort, "{told:?} in round {round}");
            assert_eq!(end.await.expect("no panic"), RelayEnd::Aborted(Side::Client));
        }
    });
}

/// What it said, and its end, are unread when the splice fails: the failure alone has to tell that it had finished.
#[test]
fn a_client_that_had_finished_before_it_broke_off_a_download_has_said_all() {
    limited_in_parallel(async {
        for round in 0..ROUNDS {
            let (mut client, agent, end) = relayed(Deaf::new).await;
            let (mut hears, says) = agent.into_split();
            let (enough, is_enough) = oneshot::channel();
            let saying = tokio::spawn(say_until(says, is_enough));
            say(&mut client, Side::Client, REQUEST).await.expect("a relay");
            client.shutdown().await.expect("a relay");
            let mut heard = vec![0; 64 * 1024];
            for _ in 0..32 + round % 16 {
                client.read_exact(&mut heard).await.expect("a download");
            }
            reset(client);
            assert_eq!(hear(&mut hears, Side::Client).await, finish_after(REQUEST), "round {round}");
            enough.send(()).expect("it still says more");
            saying.await.expect("no panic").expect("somebody takes all of it");
            assert_eq!(end.await.expect("no panic"), RelayEnd::Finished, "round {round}");
        }
    });
}

async fn say_until(mut says: OwnedWriteHalf, mut is_enough: oneshot::Receiver<()>) -> io::Result<()> {
    let piece = vec![7; 256 * 1024];
    loop {
        select! {
            biased;
            _ = &mut is_enough => return says.shutdown().await,
            said = says.write_all(&piece) => said?,
        }
    }
}

/// The relay's end of a connection, from which nothing is read before the connection is over and a write has had the chance to fail.
struct Deaf {
    socket: TcpStream,
    asked_when_over: bool,
}

impl Deaf {
    fn new(socket: TcpStream) -> Self {
        Self { socket, asked_when_over: false }
    }
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Duplex for Deaf {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_over = stands(&self.socket, PollFlags::empty())?.contains(PollFlags::HUP);
        if is_over && std::mem::replace(&mut self.asked_when_over, true) {
            return self.socket.poll_readable(cx);
        }
        // A failed write asks again, and so does the one that is about to fail.
        Poll::Pending
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_sent(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(&self.socket)
    }

    fn abort_on_drop(&mut self) {
        self.socket.abort_on_drop();
    }
}

/// Less than what any socket takes in at once.
const REQUEST: usize = 30_000;

const ROUNDS: usize = 200;
