//! What a client says after its request's head, on its way to the agent.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::Body;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tracing::Instrument;
use tunnel_api::StreamEnd;

use super::asked::Asked;
use crate::relay::Toll;

/// A request's body, as far as the agent has not heard it.
pub(super) struct Saying<B> {
    body: B,
    /// Its end is one only where it says so itself.
    says_whether_whole: bool,
    stage: Stage,
    /// Come from the client, and not paid for.
    fresh: Bytes,
    /// Paid for, and not said.
    next: VecDeque<Bytes>,
    /// What comes after all that, once it is known.
    end: Option<Option<HeaderMap>>,
    /// All that was said, until it is too much.
    kept: Option<Kept>,
    toll: Toll,
    stall: Option<Stall>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is nothing to say, or not yet.
    Silent,
    Saying,
    /// The agent has heard all.
    Told,
    /// It wants to hear no more.
    Unwanted,
}

#[derive(Default)]
struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// The agent has heard all it wants to hear.
    All,
    /// The client has broken off.
    Aborted,
    /// The agent took nothing for too long.
    Nothing,
}

impl<B: Body<Data = Bytes> + Unpin> Saying<B> {
    pub(super) fn new(body: B, version: Version) -> Self {
        let is_chunked = version < Version::HTTP_2 && body.size_hint().exact().is_none();
        Self {
            body,
            says_whether_whole: !is_chunked,
            stage: Stage::Silent,
            fresh: Bytes::new(),
            next: VecDeque::new(),
            end: None,
            kept: Some(Kept::default()),
            toll: Toll::default(),
            stall: None,
        }
    }

    /// Whether there is nothing to say.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_end_stream()
    }

    /// To an agent that has heard nothing yet.
    pub(super) fn begin(&mut self) {
        self.stage = Stage::Saying;
        if let Some(kept) = &mut self.kept {
            for piece in std::mem::take(kept).pieces.into_iter().rev() {
                self.next.push_front(piece);
            }
        }
    }

    /// Whether all that was said can be said again.
    pub(super) fn can_repeat(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether there is still something to say, now that the agent has answered.
    pub(super) fn goes_on(&self) -> bool {
        self.stage == Stage::Saying
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, asked: &Asked) -> Poll<Said> {
        loop {
            if self.stage != Stage::Saying {
                return Poll::Ready(Said::All);
            }
            if let Poll::Ready(said) = self.poll_step(cx, asked) {
                match said {
                    Said::All => continue,
                    said => return Poll::Ready(said),
                }
            }
            // While it waits for something else.
            if !matches!(asked.say(cx, |exchange, cx| exchange.poll_unwanted(cx)), Ok(Poll::Pending)) {
                self.stage = Stage::Unwanted;
                continue;
            }
            return self.poll_stalled(cx, asked);
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, asked: &Asked) -> Poll<Said> {
        if let Some(piece) = self.next.front_mut() {
            match asked.say(cx, |exchange, cx| exchange.poll_room(cx, piece.len())) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(room))) => {
                    let some = piece.split_to(room.min(piece.len()));
                    if piece.is_empty() {
                        self.next.pop_front();
                    }
                    self.say(some, asked);
                }
                Ok(Poll::Ready(Err(_))) | Err(_) => self.stage = Stage::Unwanted,
            }
        } else if !self.fresh.is_empty() {
            let buckets = &asked.uplink.0.pace.to_agent;
            let paid = ready!(self.toll.poll_paid(cx, buckets, self.fresh.len()));
            self.next.push_back(self.fresh.split_to(paid));
        } else if let Some(end) = &self.end {
            let end = end.clone();
            let told = asked.with(|exchange| exchange.finish(end));
            self.stage = if matches!(told, Ok(Ok(()))) { Stage::Told } else { Stage::Unwanted };
        } else {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.fresh = bytes,
                    Err(frame) => self.end = frame.into_trailers().ok().map(Some),
                },
                Some(Err(_)) => return Poll::Ready(Said::Aborted),
                None if self.says_whether_whole && !self.body.is_end_stream() => return Poll::Ready(Said::Aborted),
                None => self.end = Some(None),
            }
        }
        Poll::Ready(Said::All)
    }

    fn say(&mut self, bytes: Bytes, asked: &Asked) {
        if let Some(kept) = &mut self.kept {
            kept.bytes += bytes.len();
            kept.pieces.push(bytes.clone());
        }
        self.kept.take_if(|kept| kept.bytes > MOST_KEPT || kept.pieces.len() > MOST_PIECES);
        let length = bytes.len();
        match asked.with(|exchange| exchange.say(bytes)) {
            Ok(Ok(())) => asked.progress.add_to_agent(length),
            Ok(Err(_)) | Err(_) => self.stage = Stage::Unwanted,
        }
    }

    /// An agent that takes nothing for very long never will; and one that has said all it had to say is not waited for so long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, asked: &Asked) -> Poll<Said> {
        if self.next.is_empty() {
            self.stall = None;
            return Poll::Pending;
        }
        let times = &asked.uplink.0.terms.relay;
        let limit = if asked.is_answered() { times.half_closed } else { times.unread };
        let heard = asked.progress.to_agent();
        let stall = self.stall.get_or_insert_with(|| Stall::new(heard, limit));
        stall.poll(cx, heard, limit).map(|()| Said::Nothing)
    }
}

/// Since when nothing has been heard.
struct Stall {
    heard: u64,
    since: Instant,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Stall {
    fn new(heard: u64, limit: Duration) -> Self {
        Self { heard, since: Instant::now(), limit, timer: Box::pin(sleep(limit)) }
    }

    /// Ready when that has been so for as long as may be. The timer is set anew only when it fires, not with every byte.
    fn poll(&mut self, cx: &mut Context<'_>, heard: u64, limit: Duration) -> Poll<()> {
        if self.heard != heard {
            (self.heard, self.since) = (heard, Instant::now());
        }
        if self.limit != limit {
            self.limit = limit;
            self.timer.set(sleep_until(self.since + limit));
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.since.elapsed() >= limit {
                return Poll::Ready(());
            }
            self.timer.set(sleep_until(self.since + limit));
        }
    }
}

/// Says the rest while the answer is heard, until the agent has heard all or wants no more, or the request is over.
pub(super) fn go_on<B>(mut saying: Saying<B>, asked: Arc<Asked>)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    // Nothing is said again now.
    saying.kept = None;
    let rest = async move {
        let ended = asked.uplink.0.ended.token().clone();
        match ended.run_until_cancelled(poll_fn(|cx| saying.poll(cx, &asked))).await {
            Some(Said::All) => {}
            Some(Said::Aborted) => drop(asked.abort(StreamEnd::AbortedByClient)),
            Some(Said::Nothing) => drop(asked.abort(StreamEnd::Stalled)),
            None => drop(asked.abort(StreamEnd::TunnelClosed)),
        }
    };
    tokio::spawn(rest.in_current_span());
}

/// What is said before an agent has answered can be said to another one, if it is not more than this: in so many pieces, because each
/// may hold on to more than itself.
const MOST_KEPT: usize = 16 * 1024;
const MOST_PIECES: usize = 64;
