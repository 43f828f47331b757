//! A stream that an agent has yet to take.
//!
//! The client's first bytes go out with the opening, without waiting for the answer; what went out is also kept, so that
//! another session can be tried where the first one certainly did nothing with it. When [`EARLY`] bytes are kept, no more are
//! taken from the client until the agent has answered.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, task::noop_waker_ref};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

use super::ClientInfo;
use crate::{
    carrier::Declined,
    relay::Duplex,
    session::BoxStream,
    sessions::{Place, Sessions},
};

/// A stream somewhere, and its place there.
type Opened = (BoxStream, Place);

/// A stream for a client, from its opening on, wherever it ends up.
pub(super) struct Opening {
    stage: Stage,
    /// What the client has said, until the agent takes it.
    said: Vec<u8>,
    /// How much of that has been written to the present stream.
    written: usize,
    /// The client has said all it will.
    finished: bool,
    /// The present stream has been told so.
    told: bool,
    client: ClientInfo,
    sessions: Arc<Sessions>,
    tried: Vec<u64>,
    /// Streams whose agents have not taken it, until they are gone.
    declined: Vec<Opened>,
    /// When the client came.
    since: Instant,
    /// For finding another session.
    deadline: Instant,
}

enum Stage {
    Offered(Opened),
    Choosing(BoxFuture<'static, Option<Opened>>),
    Accepted(Opened),
    Failed,
}

impl Opening {
    pub(super) fn new(
        opened: Opened,
        client: ClientInfo,
        sessions: Arc<Sessions>,
        (since, deadline): (Instant, Instant),
    ) -> Self {
        Self {
            stage: Stage::Offered(opened),
            said: Vec::new(),
            written: 0,
            finished: false,
            told: false,
            client,
            sessions,
            tried: Vec::new(),
            declined: Vec::new(),
            since,
            deadline,
        }
    }

    /// The stream itself, if the agent has taken the client already. Then nothing is left here.
    pub(super) fn settled(&mut self) -> Option<Opened> {
        // Whoever has to wait for the answer asks again.
        let _ = self.poll_answered(&mut Context::from_waker(noop_waker_ref()));
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Accepted(opened) if self.declined.is_empty() => Some(opened),
            stage => {
                self.stage = stage;
                None
            }
        }
    }

    /// Ready once an agent has taken the client, or none will.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.poll_declined_gone(cx);
        loop {
            let next = match &mut self.stage {
                Stage::Accepted(_) => return Poll::Ready(Ok(())),
                Stage::Failed => return Poll::Ready(Err(Declined::Refused.into())),
                Stage::Choosing(choosing) => match ready!(choosing.as_mut().poll(cx)) {
                    Some(opened) => Stage::Offered(opened),
                    None => Stage::Failed,
                },
                Stage::Offered((stream, _)) => {
                    let answer = ready!(stream.poll_accepted(cx));
                    let Stage::Offered(opened) = std::mem::replace(&mut self.stage, Stage::Failed) else {
                        continue;
                    };
                    match answer {
                        Ok(()) => {
                            self.sessions.meters().stream_taken(self.since.elapsed());
                            Stage::Accepted(opened)
                        }
                        Err(why) => {
                            self.tried.push(opened.1.session_key());
                            self.declined.push(opened);
                            let _ = self.poll_declined_gone(cx);
                            if why == Declined::Refused { Stage::Failed } else { self.choose_another() }
                        }
                    }
                }
            };
            self.stage = next;
        }
    }

    /// Ready once all that have not taken it have forgotten it.
    fn poll_declined_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.declined.retain_mut(|(stream, _)| stream.poll_gone(cx).is_pending());
        if self.declined.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn choose_another(&mut self) -> Stage {
        (self.written, self.told) = (0, false);
        let (client, sessions, tried) = (self.client, self.sessions.clone(), self.tried.clone());
        let another = async move {
            loop {
                let place = sessions.take_other(&tried).await;
                if let Ok(stream) = place.open(&client).await {
                    return (stream, place);
                }
            }
        };
        let deadline = self.deadline;
        Stage::Choosing(Box::pin(async move { timeout_at(deadline, another).await.ok() }))
    }

    /// Gets what is kept to where it belongs now.
    fn poll_caught_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let is_accepted = matches!(self.stage, Stage::Accepted(_));
            let (Stage::Offered((stream, _)) | Stage::Accepted((stream, _))) = &mut self.stage else {
                let answer = self.poll_answered(cx)?;
                if self.stream().is_some() {
                    // Another one, which knows nothing yet.
                    continue;
                }
                return answer.map(Ok);
            };
            let stream = Pin::new(&mut **stream);
            let step = if self.written < self.said.len() {
                ready!(stream.poll_write(cx, &self.said[self.written..])).map(|written| self.written += written)
            } else if self.finished && !self.told {
                ready!(stream.poll_shutdown(cx)).map(|()| self.told = true)
            } else {
                if is_accepted {
                    (self.said, self.written) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            };
            match step {
                Ok(()) => {}
                Err(error) if is_accepted => return Poll::Ready(Err(error)),
                // The agent has said no, which is heard as an answer.
                Err(_) => ready!(self.poll_answered(cx))?,
            }
        }
    }

    fn stream(&mut self) -> Option<&mut BoxStream> {
        match &mut self.stage {
            Stage::Offered((stream, _)) | Stage::Accepted((stream, _)) => Some(stream),
            Stage::Choosing(_) | Stage::Failed => None,
        }
    }

    /// As [`SessionStream::poll_gone`].
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let declined = self.poll_declined_gone(cx);
        ready!(self.stream().map_or(Poll::Ready(()), |stream| stream.poll_gone(cx)));
        declined
    }
}

impl AsyncRead for Opening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(cx))?;
        self.stream().map_or(Poll::Pending, |stream| Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Opening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let answer = self.poll_answered(cx)?;
        ready!(self.poll_caught_up(cx))?;
        if answer.is_ready() {
            return self.stream().map_or(Poll::Pending, |stream| Pin::new(stream).poll_write(cx, buf));
        }
        let some = buf.len().min(EARLY - self.said.len());
        if some == 0 {
            return Poll::Pending;
        }
        self.said.extend_from_slice(&buf[..some]);
        // Kept is as good as written: it goes out now, or as soon as it can.
        match self.poll_caught_up(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(some)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.poll_caught_up(cx)
    }
}

impl Duplex for Opening {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answer = self.poll_answered(cx)?;
        // Reading drives it too: while the client is silent nothing is written. What fails there fails again when the client
        // has more to say, and is no end of what the agent says.
        let _ = self.poll_caught_up(cx);
        ready!(answer);
        self.stream().map_or(Poll::Pending, |stream| stream.poll_readable(cx))
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_caught_up(cx)).is_err() {
            return Poll::Ready(());
        }
        self.stream().map_or(Poll::Ready(()), |stream| stream.poll_sent(cx))
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.stage {
            Stage::Accepted((stream, _)) => stream.has_aborted(cx),
            Stage::Failed => true,
            // Where it has not been taken it is asked for an answer with every write and read.
            Stage::Offered(_) | Stage::Choosing(_) => false,
        }
    }

    fn abort_on_drop(&mut self) {
        if let Some(stream) = self.stream() {
            stream.abort_on_drop();
        }
    }

    fn finish_on_drop(&mut self) {
        if let Some(stream) = self.stream() {
            stream.finish_on_drop();
        }
    }
}

/// A stream of which some has been read already, which comes first.
pub(super) struct AfterHeard<'o> {
    pub(super) heard: Bytes,
    pub(super) opening: &'o mut Opening,
}

impl AsyncRead for AfterHeard<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.heard.is_empty() {
            return Pin::new(&mut *self.opening).poll_read(cx, buf);
        }
        let some = self.heard.len().min(buf.remaining());
        buf.put_slice(&self.heard.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AfterHeard<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.opening).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.opening).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.opening).poll_shutdown(cx)
    }
}

impl Duplex for AfterHeard<'_> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.heard.is_empty() { self.opening.poll_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.opening.poll_sent(cx)
    }

    fn has_aborted(&mut self, cx: &mut Context<'_>) -> bool {
        self.opening.has_aborted(cx)
    }

    fn abort_on_drop(&mut self) {
        self.opening.abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        self.opening.finish_on_drop();
    }
}

/// What a client may say before an agent has taken it.
const EARLY: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, MutexGuard, PoisonError},
        time::Duration,
    };

    use async_trait::async_trait;

    use super::*;
    use crate::{
        events::{Events, Identity},
        presence::Lifetime,
        session::{Session, SessionGone, SessionStream},
    };

    /// An agent with room for one client, and that client's stream.
    #[derive(Clone, Default)]
    struct Agent(Arc<Mutex<Seen>>);

    #[derive(Default)]
    struct Seen {
        heard: Vec<u8>,
        heard_all: bool,
        leaves_it: bool,
    }

    impl Agent {
        fn lock(&self) -> MutexGuard<'_, Seen> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[async_trait]
    impl Session for Agent {
        async fn open(&self, _: &ClientInfo) -> Result<BoxStream, SessionGone> {
            Ok(Box::new(self.clone()))
        }

        fn room(&self) -> usize {
            1
        }
    }

    impl SessionStream for Agent {
        fn poll_accepted(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Declined>> {
            if self.lock().leaves_it { Poll::Ready(Err(Declined::Untouched)) } else { Poll::Pending }
        }

        fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    impl AsyncRead for Agent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Agent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.lock().heard.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.lock().heard_all = true;
            Poll::Ready(Ok(()))
        }
    }

    impl Duplex for Agent {
        fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn abort_on_drop(&mut self) {}
    }

    #[tokio::test]
    async fn an_agent_that_comes_while_a_client_ends_hears_it_all_at_once() {
        let about = Identity {
            id: "t-1".parse().unwrap(),
            owner: tunnel_api::Owner::new("local"),
            name: None,
            backend: "test".into(),
        };
        let lifetime = Lifetime { dial_within: Duration::from_secs(60), grace: None };
        let sessions = Sessions::new(lifetime, Events::new(Arc::default(), Default::default()).of(Arc::new(about)));
        let addr = "127.0.0.1:1".parse().unwrap();
        let client = ClientInfo { client_addr: addr, public_addr: addr };
        let (first, other) = (Agent::default(), Agent::default());
        let _first = sessions.join(Arc::new(first.clone()), addr, None);
        let place = sessions.take().await;
        let opened = (place.open(&client).await.unwrap(), place);
        let times = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let mut opening = Opening::new(opened, client, sessions.clone(), times);
        // Given a client that has been left to another agent, of which there is none yet.
        let cx = &mut Context::from_waker(noop_waker_ref());
        assert!(Pin::new(&mut opening).poll_write(cx, b"hello").is_ready());
        first.lock().leaves_it = true;
        assert!(opening.poll_readable(cx).is_pending());
        // When that one comes, and then the client ends.
        let _other = sessions.join(Arc::new(other.clone()), addr, None);
        let _ = Pin::new(&mut opening).poll_shutdown(cx);
        // Then it hears everything at once, and not only when it has answered.
        let other = other.lock();
        assert_eq!((&*other.heard, other.heard_all), (&b"hello"[..], true));
    }
}
