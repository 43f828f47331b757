//! A stream that a protocol of ours runs on, where nobody relays: what the client asks is said to the agent in HTTP/1.1.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tunnel_api::StreamEnd;

use super::{Account, ClientInfo, OpenStream, Opening, asking::let_go};
use crate::relay::{Bucket, Duplex, Queue};

/// A stream to read from and to write to. It is counted, paced and ended with its tunnel as a relay's is. It has finished when
/// it has been shut down, which also hears it out; dropped before, it is aborted.
pub(crate) struct StreamIo {
    /// Until it becomes something else.
    parts: Option<Parts>,
    to_agent: Queue<Vec<Arc<Bucket>>>,
    to_client: Queue<Vec<Arc<Bucket>>>,
    tunnel_over: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The agent listens no more, but what it has said is whole: it is read to its end, and what it is told goes nowhere.
    is_deaf: bool,
    has_said_all: bool,
    has_heard_all: bool,
    lingers: Option<Pin<Box<Sleep>>>,
    /// How it has ended, if that is known.
    end: Option<StreamEnd>,
}

struct Parts {
    opening: Opening,
    client: ClientInfo,
    account: Account,
    since: Instant,
}

impl StreamIo {
    pub(super) fn new(stream: OpenStream) -> Self {
        let OpenStream { opening, client, account, since, .. } = stream;
        let inner = &account.uplink.0;
        Self {
            to_agent: Queue::new(inner.pace.to_agent.clone()),
            to_client: Queue::new(inner.pace.to_client.clone()),
            tunnel_over: Box::pin(inner.ended.token().clone().cancelled_owned()),
            parts: Some(Parts { opening, client, account, since }),
            is_deaf: false,
            has_said_all: false,
            has_heard_all: false,
            lingers: None,
            end: None,
        }
    }

    /// The stream again, to be relayed from here on; this was heard already and is the client's.
    pub(crate) fn into_stream(mut self, heard: Bytes) -> Option<OpenStream> {
        let Parts { opening, client, account, since } = self.parts.take()?;
        // The relay counts it when the client has it.
        account.progress.take_back_to_client(heard.len());
        Some(OpenStream { opening, client, account, since, heard })
    }

    fn opening(&mut self) -> io::Result<Pin<&mut Opening>> {
        // It is taken out by what consumes this, and by its drop.
        self.parts.as_mut().map(|parts| Pin::new(&mut parts.opening)).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn check_tunnel(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.tunnel_over.as_mut().poll(cx).is_ready() {
            self.end = Some(StreamEnd::TunnelClosed);
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "the tunnel was closed"));
        }
        Ok(())
    }

    fn broken(&mut self, error: io::Error) -> io::Error {
        self.end.get_or_insert(StreamEnd::AbortedByAgent);
        error
    }

    fn poll_heard_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unheard = [0; 1024];
        while !self.has_heard_all {
            let mut buf = ReadBuf::new(&mut unheard);
            let Ok(opening) = self.opening() else { return Poll::Ready(()) };
            match ready!(opening.poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => self.has_heard_all = true,
                Ok(()) => {}
                // It is whole all the same.
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_tunnel(cx)?;
        let before = buf.filled().len();
        let read = if self.to_client.is_paced() {
            let readable = ready!(self.opening()?.poll_readable(cx));
            readable.map_err(|error| self.broken(error))?;
            let turn = ready!(self.to_client.poll_turn(cx));
            let most = turn.most().min(buf.remaining());
            let mut some = ReadBuf::new(buf.initialize_unfilled_to(most));
            let read = self.opening()?.poll_read(cx, &mut some);
            let bytes = some.filled().len();
            buf.advance(bytes);
            turn.pay(bytes);
            read
        } else {
            self.opening()?.poll_read(cx, buf)
        };
        ready!(read).map_err(|error| self.broken(error))?;
        let bytes = buf.filled().len() - before;
        if bytes == 0 && buf.remaining() > 0 {
            self.has_heard_all = true;
        }
        if let Some(parts) = &self.parts {
            parts.account.progress.add_to_client(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_tunnel(cx)?;
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = if self.to_agent.is_paced() {
            let turn = ready!(self.to_agent.poll_turn(cx));
            let some = &bytes[..bytes.len().min(turn.most())];
            let written = self.opening()?.poll_write(cx, some);
            turn.pay(match &written {
                Poll::Ready(Ok(written)) => *written,
                _ => 0,
            });
            written
        } else {
            self.opening()?.poll_write(cx, bytes)
        };
        match ready!(written) {
            Ok(written) => {
                if let Some(parts) = &self.parts {
                    parts.account.progress.add_to_agent(written);
                }
                Poll::Ready(Ok(written))
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.is_deaf = true;
                Poll::Ready(Ok(bytes.len()))
            }
            Err(error) => Poll::Ready(Err(self.broken(error))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.opening()?.poll_flush(cx)
    }

    /// Says that it was all, and hears out what the agent still says, which nobody waits for: for as long as a relay would.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_tunnel(cx)?;
        if !self.has_said_all {
            // Whoever cannot be told listens no more.
            let _ = ready!(self.opening()?.poll_shutdown(cx));
            self.has_said_all = true;
        }
        if self.poll_heard_out(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let linger = self.parts.as_ref().map(|parts| parts.account.uplink.0.terms.relay.linger).unwrap_or_default();
        self.lingers.get_or_insert_with(|| Box::pin(sleep(linger))).as_mut().poll(cx).map(Ok)
    }
}

impl Drop for StreamIo {
    fn drop(&mut self) {
        let Some(Parts { mut opening, client, account, since }) = self.parts.take() else { return };
        let whole = if self.has_said_all { StreamEnd::Finished } else { StreamEnd::AbortedByClient };
        account.uplink.0.tell_end(&account, client, self.end.unwrap_or(whole), since);
        let uplink = account.uplink.clone();
        // What was said before an abort is heard before it, as far as a relay would see to that.
        let mut leaving = (!self.has_said_all && self.end.is_none() && Handle::try_current().is_ok())
            .then(|| Box::pin(sleep(uplink.0.terms.relay.linger)));
        if self.has_said_all {
            opening.finish_on_drop();
        } else if leaving.is_none() {
            opening.abort_on_drop();
        }
        // And on HTTP/2 a reset waits for its turn, and keeps its place meanwhile.
        let_go(&uplink, (opening, account), move |(opening, _), cx| {
            if let Some(limit) = &mut leaving {
                if opening.poll_sent(cx).is_pending() && limit.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                leaving = None;
                opening.abort_on_drop();
            }
            opening.poll_gone(cx)
        });
    }
}
