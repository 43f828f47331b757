//! What an agent answers, on its way to the client.

use std::{
    fmt,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tunnel_api::StreamEnd;

use super::{
    super::{Account, stream_end},
    asked::{Asked, let_go},
};
use crate::{
    relay::{Duplex, Progress, Toll, relay},
    session::BoxStream,
    sessions::Place,
};

/// An answer's body. It ends where the agent has said that it is whole; anything else is an error. Dropping it before its end aborts
/// the request.
pub struct AnswerBody {
    asked: Arc<Asked>,
    /// Come from the agent, and not paid for.
    fresh: Bytes,
    toll: Toll,
    end: Option<StreamEnd>,
}

impl AnswerBody {
    pub(super) fn new(asked: Arc<Asked>) -> Self {
        Self { asked, fresh: Bytes::new(), toll: Toll::default(), end: None }
    }

    /// What went each way so far.
    pub fn progress(&self) -> Arc<Progress> {
        self.asked.progress.clone()
    }

    /// How the answer ended, if it has.
    pub fn end(&self) -> Option<StreamEnd> {
        self.end.or_else(|| self.is_heard().then_some(StreamEnd::Finished))
    }

    /// The connection that an extended CONNECT has become; an error where it has been lost meanwhile.
    pub fn into_stream(mut self) -> io::Result<UpgradedStream> {
        let (exchange, place, account) = self.asked.take().ok_or(ErrorKind::ConnectionReset)?;
        // It is there, elsewhere.
        self.end = Some(StreamEnd::Finished);
        let there = Some((exchange.into_stream(), place, account));
        Ok(UpgradedStream { there, end: StreamEnd::AbortedByClient })
    }

    fn is_heard(&self) -> bool {
        self.fresh.is_empty() && self.asked.is_answered()
    }

    fn abort(&mut self, by: StreamEnd) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let by = self.asked.abort(by);
        self.end = Some(by);
        let why = match by {
            StreamEnd::AbortedByClient => "the client aborted the request",
            StreamEnd::TunnelClosed => "the tunnel was closed",
            StreamEnd::Stalled => "the agent does not take the request",
            _ => "the agent aborted the answer",
        };
        Poll::Ready(Some(Err(io::Error::new(ErrorKind::ConnectionReset, why))))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        loop {
            if this.end.is_some() {
                return Poll::Ready(None);
            }
            if this.asked.is_over(cx) {
                return this.abort(StreamEnd::TunnelClosed);
            }
            if !this.fresh.is_empty() {
                let buckets = &this.asked.uplink.0.pace.to_client;
                let paid = ready!(this.toll.poll_paid(cx, buckets, this.fresh.len()));
                this.asked.progress.add_to_client(paid);
                return Poll::Ready(Some(Ok(Frame::data(this.fresh.split_to(paid)))));
            }
            match this.asked.with(|exchange| exchange.poll_frame(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_data() {
                    Ok(bytes) => this.fresh = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Ok(Poll::Ready(None)) => this.end = Some(StreamEnd::Finished),
                Ok(Poll::Ready(Some(Err(_)))) => return this.abort(StreamEnd::AbortedByAgent),
                Err(by) => return this.abort(by),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end().is_some()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.end().is_none() {
            self.asked.abort(StreamEnd::AbortedByClient);
        }
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").field("end", &self.end()).finish_non_exhaustive()
    }
}

/// The connection that a request has become. Dropping it aborts it.
pub struct UpgradedStream {
    /// Until it is let go.
    there: Option<(BoxStream, Place, Account)>,
    /// How it ends if nothing else happens.
    end: StreamEnd,
}

impl UpgradedStream {
    /// Relays until it ends, and says how it did. Dropping the future aborts it.
    pub async fn relay(mut self, client: impl Duplex) -> StreamEnd {
        let Some((stream, _, account)) = &mut self.there else { return StreamEnd::AbortedByAgent };
        let inner = &*account.uplink.0;
        let relayed =
            relay(client, &mut *stream, &account.progress, &inner.pace, &inner.terms.relay, inner.ended.token());
        self.end = stream_end(relayed.await);
        self.end
    }

    /// What went each way so far.
    pub fn progress(&self) -> Arc<Progress> {
        self.there.as_ref().map(|(_, _, account)| account.progress.clone()).unwrap_or_default()
    }
}

impl Drop for UpgradedStream {
    fn drop(&mut self) {
        if let Some((stream, place, account)) = self.there.take() {
            let uplink = account.uplink.clone();
            uplink.meters().stream_ended(self.end);
            let_go(&uplink, (stream, place, account), |(stream, ..), cx| stream.poll_gone(cx));
        }
    }
}

impl fmt::Debug for UpgradedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradedStream").finish_non_exhaustive()
    }
}
