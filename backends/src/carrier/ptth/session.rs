//! One agent's connection, at the server: HTTP/2's client, on a connection that was accepted.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use h2::{
    Reason,
    client::{Connection, SendRequest},
};
use http::{Method, Request, Uri, header::FORWARDED};
use tokio::time::{Instant, timeout, timeout_at};
use tunnel_api::AgentLoss;

use super::{
    caller::CallerStream,
    exchange::without_connection,
    forwarded::forwarded,
    gate::Entry,
    inbox::Streams,
    limits::{self, LAST_STREAM, MOST_STREAMS},
    outgoing::{Gathering, MOST_HELP},
    parting::Farewell,
    pulse::{Pulse, SetWindow},
    resets::Resets,
    stream::{Chunk, H2Stream},
    wire::Wire,
};
use crate::{
    exchange::{BoxExchange, Requests},
    replay::Replay,
    seldom::Seldom,
    session::{BoxStream, Session, SessionGone},
    sessions::Membership,
    uplink::ClientInfo,
};

/// An agent that speaks HTTP/2, and what begins streams to it.
pub(super) type Met = (Box<Agent>, SendRequest<Chunk>);

/// Begins HTTP/2 on an agent's connection. `deadline` is for the agent to show that it speaks it.
pub(super) async fn meet(io: Replay, entry: &Entry, deadline: Instant) -> Option<Met> {
    let met = tokio::select! {
        biased;
        () = entry.over.cancelled() => return None,
        met = timeout_at(deadline, Agent::meet(io, entry)) => met,
    };
    let ended = match met {
        Ok(Ok(met)) => return Some(met),
        Ok(Err(error)) => Ended::Broken(error),
        Err(_) => Ended::Silent,
    };
    tell(entry, &ended);
    None
}

/// Serves an agent until its connection ends.
pub(super) async fn serve(agent: Box<Agent>, sender: SendRequest<Chunk>, entry: &Entry, resets: u32) {
    tell(entry, &agent.serve(sender, entry, resets).await);
}

fn tell(entry: &Entry, ended: &Ended) {
    tracing::debug!(agent.addr = %entry.addr, ?ended, "agent's session ended");
}

/// How a session ended.
#[derive(Debug)]
enum Ended {
    /// The agent hung up, said goodbye, or broke HTTP/2's rules.
    Broken(h2::Error),
    /// It said goodbye, and all streams have ended.
    Done,
    /// It was silent for too long.
    Silent,
    /// It came again.
    Replaced,
    /// The tunnel is over.
    Stopped,
}

impl Ended {
    fn loss(&self) -> AgentLoss {
        match self {
            Self::Silent => AgentLoss::Silent,
            Self::Broken(error) if error.is_go_away() && !error.is_remote() => AgentLoss::Misbehaved,
            _ => AgentLoss::HungUp,
        }
    }
}

/// How long a tunnel's end waits for an agent to hear what it was told before.
const PARTING: Duration = Duration::from_secs(5);

/// An agent that has shown that it speaks HTTP/2.
pub(super) struct Agent {
    connection: Connection<Wire, Chunk>,
    /// Sees to it that what comes is read.
    gathering: Arc<Gathering>,
    farewell: Farewell,
    pulse: Pulse,
    streams: Arc<Streams>,
    /// Others who were ready are having their turn first.
    lets_others_go_first: bool,
}

impl SetWindow for Connection<Wire, Chunk> {
    fn set_window(&mut self, size: u32) -> Result<(), h2::Error> {
        self.set_initial_window_size(size)
    }
}

impl Agent {
    async fn meet(io: Replay, entry: &Entry) -> Result<(Box<Self>, SendRequest<Chunk>), h2::Error> {
        let wire = Wire::to_answerer(io);
        let (heard, gathering, farewell) = (wire.heard(), wire.gathering(), wire.farewell());
        let (sender, mut connection) = limits::caller().handshake(wire).await?;
        // They are there until they are taken.
        let pings = connection.ping_pong().expect("the connection's pings");
        let pulse = Pulse::new(pings, heard, entry.admitted.patience);
        let streams = Arc::default();
        let mut agent = Box::new(Self { connection, gathering, farewell, pulse, streams, lets_others_go_first: false });
        poll_fn(|cx| match agent.poll(cx) {
            Poll::Ready(Ended::Broken(error)) => Poll::Ready(Err(error)),
            Poll::Ready(_) => Poll::Ready(Err(Reason::CANCEL.into())),
            Poll::Pending if agent.pulse.has_answered() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        Ok((agent, sender))
    }

    async fn serve(mut self: Box<Self>, sender: SendRequest<Chunk>, entry: &Entry, resets: u32) -> Ended {
        let mut stay = Some(Stay::begin(sender, entry, resets, &self));
        let (over, retired) = (pin!(entry.over.cancelled()), pin!(entry.admitted.uplink.retired()));
        let (mut over, mut retired) = (Seldom::new(over), Seldom::new(retired));
        let ended = loop {
            let no_new_streams = tokio::select! {
                biased;
                () = &mut over => break if entry.is_replaced() { Ended::Replaced } else { Ended::Stopped },
                () = &mut retired, if stay.is_some() => true,
                step = poll_fn(|cx| self.poll_step(cx, stay.as_mut())) => match step {
                    Some(ended) => break ended,
                    None => true,
                }
            };
            if no_new_streams {
                // Nobody holds a sender now but the streams: the connection ends with the last of them.
                stay = None;
                self.farewell.say();
            }
        };
        match stay {
            Some(stay) => stay.membership.leave(ended.loss()),
            None if matches!(ended, Ended::Stopped) => return self.part().await,
            None => {}
        }
        ended
    }

    /// The tunnel was over as soon as the streams were. What they have said is on its way still.
    async fn part(&mut self) -> Ended {
        let over = Box::pin(timeout(PARTING, poll_fn(|cx| self.poll(cx))));
        over.await.unwrap_or(Ended::Stopped)
    }

    /// Ready when the session has ended, or with nothing when it should take no new streams.
    fn poll_step(&mut self, cx: &mut Context<'_>, stay: Option<&mut Stay>) -> Poll<Option<Ended>> {
        if let Poll::Ready(ended) = self.poll(cx) {
            return Poll::Ready(Some(ended));
        }
        match stay {
            Some(stay) => {
                if stay.is_over(cx) {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                }
            }
            None => Poll::Pending,
        }
    }

    /// Drives the connection; ready when it has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        // As in the agent's half: what all have to say who are ready goes out in one.
        self.lets_others_go_first = !self.lets_others_go_first;
        if self.lets_others_go_first {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut ended = Pin::new(&mut self.connection).poll(cx);
        for _ in 0..MOST_HELP {
            if ended.is_ready() || !self.gathering.help_if_stuck() {
                break;
            }
            ended = Pin::new(&mut self.connection).poll(cx);
        }
        if let Poll::Ready(ended) = ended {
            return Poll::Ready(ended.map_or_else(Ended::Broken, |()| Ended::Done));
        }
        self.pulse.poll(cx, &mut self.connection, &self.streams).map(|_silent| Ended::Silent)
    }
}

/// The time in which a session takes new streams.
struct Stay {
    membership: Membership,
    sender: SendRequest<Chunk>,
    session: Arc<PtthSession>,
}

impl Stay {
    fn begin(sender: SendRequest<Chunk>, entry: &Entry, resets: u32, agent: &Agent) -> Self {
        let session = Arc::new(PtthSession {
            sender: sender.clone(),
            // An address' authority is always one of a URI.
            authority: entry.admitted.address.authority().parse().unwrap_or_default(),
            room: sender.current_max_send_streams().min(MOST_STREAMS as usize),
            resets: Arc::new(Resets::new(resets)),
            streams: Arc::downgrade(&agent.streams),
            is_doubtful: agent.pulse.is_doubtful(),
            is_worn_out: AtomicBool::new(false),
        });
        let uplink = &entry.admitted.uplink;
        let membership = uplink.join(session.clone(), entry.addr, entry.take_over());
        uplink.meters().agent_joined(entry.since.elapsed());
        Self { membership, sender, session }
    }

    /// The agent has said goodbye, or the stream ids are used up.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let is_refused = matches!(self.sender.poll_ready(cx), Poll::Ready(Err(_)));
        is_refused || self.session.is_worn_out.load(Ordering::Relaxed)
    }
}

struct PtthSession {
    sender: SendRequest<Chunk>,
    authority: Uri,
    room: usize,
    resets: Arc<Resets>,
    streams: Weak<Streams>,
    is_doubtful: Arc<AtomicBool>,
    is_worn_out: AtomicBool,
}

#[async_trait]
impl Session for PtthSession {
    async fn open(&self, client: &ClientInfo) -> Result<BoxStream, SessionGone> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = self.authority.clone();
        let forwarded = forwarded(client.client_addr, client.public_addr);
        // Addresses are fine header values.
        request.headers_mut().insert(FORWARDED, forwarded.parse().map_err(|_| SessionGone)?);
        Ok(Box::new(self.begin(request, Ends::Open)?))
    }

    fn room(&self) -> usize {
        self.room
    }

    fn requests(&self) -> Option<&dyn Requests> {
        Some(self)
    }

    fn is_doubtful(&self) -> bool {
        self.is_doubtful.load(Ordering::Relaxed)
    }
}

impl Requests for PtthSession {
    fn send(&self, mut head: Request<()>, ends: bool) -> Result<BoxExchange, SessionGone> {
        without_connection(head.headers_mut());
        let ends = if ends { Ends::Whole } else { Ends::Open };
        Ok(Box::new(self.begin(head, ends)?))
    }

    fn takes_protocols(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }
}

/// Whether a head is all there is of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Whole,
    Open,
}

impl PtthSession {
    fn begin(&self, head: Request<()>, ends: Ends) -> Result<CallerStream, SessionGone> {
        let streams = self.streams.upgrade().ok_or(SessionGone)?;
        let is_whole = ends == Ends::Whole;
        let (answer, send) = self.sender.clone().send_request(head, is_whole).map_err(|_| SessionGone)?;
        if send.stream_id().as_u32() >= LAST_STREAM {
            self.is_worn_out.store(true, Ordering::Relaxed);
        }
        let mut stream = H2Stream::new(send, streams.inbox(None), streams);
        if is_whole {
            stream.say_nothing();
        }
        Ok(CallerStream::new(stream, answer, self.resets.clone()))
    }
}
