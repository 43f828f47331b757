//! A client's request, asked of an agent.
//!
//! What the client says goes out while its answer is awaited, without a task of its own; only where the answer comes first does the
//! rest of what is said move to one (`saying.rs`), because then each direction has its own way. What has been said is kept, up to
//! 16 KiB, so that another session can be asked where the first one certainly did nothing with it.
//!
//! Both directions end well or are aborted, each for everybody: a request that its client breaks off is reset at the agent, an
//! answer that its agent breaks off is an error to whoever reads it, and an answer that is dropped before its end resets the request
//! (`asked.rs`).

mod answer;
mod asked;
mod saying;

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use futures_util::TryFutureExt;
use h2::ext::Protocol;
use http::{Request, Response};
use http_body::Body;
use tokio::time::{Instant, timeout_at};
use tunnel_api::StreamEnd;

pub use self::answer::{AnswerBody, UpgradedStream};
pub(super) use self::asked::let_go;
use self::{
    asked::Asked,
    saying::{Said, Saying},
};
use super::{Account, Admitted, NoStream, Seeking, Uplink};
use crate::{
    exchange::{BoxExchange, Unanswered},
    sessions::Place,
    upgraded::is_connection,
};

/// What an agent answered.
pub type Answer = Response<AnswerBody>;

/// Why a request gets no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// It came to no agent.
    #[error(transparent)]
    NoStream(#[from] NoStream),
    /// The tunnel's agents take connections, and no requests.
    #[error("the tunnel's agents take no requests")]
    NoRequests,
    /// The agent takes requests, and no connections: it has not allowed extended CONNECTs.
    #[error("the tunnel's agent takes no upgrades")]
    NoUpgrades,
    /// The agent refused it or broke off before it answered.
    #[error("the agent aborted the request")]
    Aborted,
    /// The agent's connection was lost before it answered.
    #[error("the agent's connection was lost")]
    AgentLost,
    /// The client broke off before it had said all.
    #[error("the client aborted its request")]
    ClientAborted,
    /// The agent took nothing of what the client had to say for too long.
    #[error("the agent does not take the request")]
    Stalled,
    /// The tunnel was closed meanwhile.
    #[error("the tunnel was closed")]
    TunnelClosed,
}

impl NoAnswer {
    /// How the request ended.
    pub fn end(&self) -> StreamEnd {
        match self {
            Self::ClientAborted => StreamEnd::AbortedByClient,
            Self::Stalled => StreamEnd::Stalled,
            Self::TunnelClosed => StreamEnd::TunnelClosed,
            _ => StreamEnd::AbortedByAgent,
        }
    }
}

impl Uplink {
    /// Asks an agent: waits, within bounds, for a session with room, as [`connect`](Self::connect) does, and gives the answer when
    /// its head has come. The request's URI is absolute, and its version that of the client's connection.
    ///
    /// The body is first looked at when a session has been found. Its end is one where it certainly is: an error is an abort, and
    /// so is an end before [`is_end_stream`](Body::is_end_stream) over HTTP/2, and before as much has come as was announced. (hyper
    /// hides an HTTP/2 client's abort behind an end. What comes in chunks over HTTP/1.1 and breaks off is an error, since hyper 1.12
    /// also where the client's connection is dropped.)
    ///
    /// One with a [`Protocol`] among its extensions is an extended CONNECT, which has no body; where it is answered with success, the
    /// answer's body is a [connection](AnswerBody::into_stream), unless the answer [says otherwise](is_connection).
    ///
    /// Dropping the future aborts the request.
    pub fn ask<B>(
        &self,
        admitted: Admitted,
        request: Request<B>,
    ) -> impl Future<Output = Result<Answer, NoAnswer>> + Send + use<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let (head, body) = request.into_parts();
        let mut saying = Saying::new(body, head.version);
        let head = Head {
            is_upgrade: head.extensions.get::<Protocol>().is_some(),
            is_whole: saying.is_over(),
            head: Request::from_parts(head, ()),
        };
        let (uplink, at_its_end) = (self.clone(), self.clone());
        // What is moved into an `async fn` is there twice. This is as large as what it holds.
        let asked = async move {
            if uplink.is_retired() {
                return Err(NoStream::Retired.into());
            }
            let deadline = Instant::now() + uplink.0.terms.client_wait;
            // Nearly always there is a place; nothing is to be waited for then.
            let (exchange, place) = match uplink.send_at_once(&head)? {
                Some(sent) => sent,
                None => Box::pin(uplink.send_when_there_is_a_place(deadline, &head)).await?,
            };
            let account = Account::begin(&uplink, admitted.progress, admitted.counted);
            let asked = Arc::new(Asked::new(account, exchange, place));
            let mut tried = Vec::new();
            let answer = loop {
                if !head.is_upgrade && !head.is_whole {
                    saying.begin();
                }
                match answer(&asked, &mut saying).await? {
                    Ok(answer) => break answer,
                    Err(Unanswered::Aborted) => return Err(NoAnswer::Aborted),
                    Err(Unanswered::Lost) => return Err(NoAnswer::AgentLost),
                    Err(Unanswered::Untouched) if !saying.can_repeat() => return Err(NoAnswer::Aborted),
                    Err(Unanswered::Untouched) => {}
                }
                tried.extend(asked.leave());
                let (exchange, place) = Box::pin(uplink.send_once_more(deadline, &tried, &head)).await?;
                asked.go_to(exchange, place);
            };
            if head.is_upgrade && !is_connection(&answer) {
                // Nothing will be said there. Fails where the stream is dead already.
                let _ = asked.with(|exchange| exchange.finish(None));
            } else if saying.goes_on() {
                saying::go_on(saying, asked.clone());
            }
            let (head, ()) = answer.into_parts();
            Ok(Response::from_parts(head, AnswerBody::new(asked)))
        };
        // What agents do because of that is not their doing.
        asked.map_err(move |error| if at_its_end.0.ended.is_passed() { NoAnswer::TunnelClosed } else { error })
    }

    fn send_at_once(&self, head: &Head) -> Result<Option<(BoxExchange, Place)>, NoAnswer> {
        while let Some(place) = self.0.sessions.take_at_once() {
            if let Some(exchange) = head.send(&place)? {
                return Ok(Some((exchange, place)));
            }
        }
        Ok(None)
    }

    async fn send_when_there_is_a_place(
        &self,
        deadline: Instant,
        head: &Head,
    ) -> Result<(BoxExchange, Place), NoAnswer> {
        tokio::select! {
            biased;
            () = self.retired() => Err(NoStream::Retired.into()),
            sent = timeout_at(deadline, self.send_somewhere(head)) => sent.map_err(|_| NoStream::NoAgent)?,
        }
    }

    async fn send_somewhere(&self, head: &Head) -> Result<(BoxExchange, Place), NoAnswer> {
        let mut seeking = Seeking::new(self);
        loop {
            let place = self.count_refused(seeking.next().await)?;
            if let Some(exchange) = head.send(&place)? {
                return Ok((exchange, place));
            }
        }
    }

    async fn send_once_more(
        &self,
        deadline: Instant,
        tried: &[u64],
        head: &Head,
    ) -> Result<(BoxExchange, Place), NoAnswer> {
        let elsewhere = timeout_at(deadline, self.send_elsewhere(tried, head));
        let sent = self.0.ended.token().run_until_cancelled(elsewhere).await.ok_or(NoAnswer::TunnelClosed)?;
        sent.map_err(|_| NoStream::NoAgent)?
    }

    async fn send_elsewhere(&self, tried: &[u64], head: &Head) -> Result<(BoxExchange, Place), NoAnswer> {
        loop {
            let place = self.0.sessions.take_other(tried).await;
            if let Some(exchange) = head.send(&place)? {
                return Ok((exchange, place));
            }
        }
    }
}

/// A request's head, to be sent perhaps more than once.
struct Head {
    head: Request<()>,
    is_upgrade: bool,
    /// There is nothing to be said after it.
    is_whole: bool,
}

impl Head {
    /// Nothing where that session has gone.
    fn send(&self, place: &Place) -> Result<Option<BoxExchange>, NoAnswer> {
        let requests = place.requests().ok_or(NoAnswer::NoRequests)?;
        if self.is_upgrade && !requests.takes_protocols() {
            return Err(NoAnswer::NoUpgrades);
        }
        Ok(place.send(self.head.clone(), self.is_whole && !self.is_upgrade).ok())
    }
}

/// The answer's head, while the request is said.
async fn answer<B>(asked: &Asked, saying: &mut Saying<B>) -> Result<Result<Response<()>, Unanswered>, NoAnswer>
where
    B: Body<Data = Bytes> + Unpin,
{
    poll_fn(|cx| {
        if asked.is_over(cx) {
            return Poll::Ready(Err(NoAnswer::TunnelClosed));
        }
        match saying.poll(cx, asked) {
            Poll::Ready(Said::Aborted) => return Poll::Ready(Err(NoAnswer::ClientAborted)),
            Poll::Ready(Said::Nothing) => return Poll::Ready(Err(NoAnswer::Stalled)),
            Poll::Ready(Said::All) | Poll::Pending => {}
        }
        match asked.with(|exchange| exchange.poll_answer(cx)) {
            Ok(answer) => answer.map(Ok),
            Err(_) => Poll::Ready(Ok(Err(Unanswered::Aborted))),
        }
    })
    .await
}
