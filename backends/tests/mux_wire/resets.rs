//! Clients that reset their connections, or are not taken, faster than agents bear resets: Node's HTTP/2 gives up its
//! connection after 1,000 in a row and then 33 a second.

use std::{collections::HashSet, io::ErrorKind};

use futures_util::future::join_all;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::Instant};
use tunnel_api::OpenedTunnel;
use tunnel_backends::{
    sockets,
    testing::{
        Heard,
        client::{hear_exactly, try_connect},
        connect, hear, keep, say, soon,
    },
};

use crate::{
    frames::{DATA, Frame, Frames, HEADERS, RST_STREAM},
    knock::Knock,
    mux::{Mux, open, until_sessions, until_streams},
};

#[test]
fn clients_that_reset_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Counting::begin(Frames::dial(&tunnel).await, None);
        let since = Instant::now();
        let mut good = connect(&tunnel.address).await;
        exchange(&mut good).await;
        // There is room for 4,096 streams, and those that wait for their reset keep theirs.
        come_and_reset(&tunnel, &mut agent, 5000, 4500).await;
        agent.until(|seen| seen.resets >= 500).await;
        exchange(&mut good).await;
        exchange(&mut connect(&tunnel.address).await).await;
        let most = most_resets(since);
        let seen = agent.seen();
        assert!((500..=most).contains(&seen.resets), "{seen:?} after {:?}", since.elapsed());
    });
}

#[test]
fn an_agent_that_bears_resets_gets_them_at_once() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let knock = Knock::at(&tunnel.uri).query("resets=100000");
        let mut agent = Counting::begin(Frames::dial_with(&tunnel, &knock, &[]).await, None);
        let mut good = connect(&tunnel.address).await;
        exchange(&mut good).await;
        come_and_reset(&tunnel, &mut agent, 5000, 5000).await;
        agent.until(|seen| seen.resets == 5000).await;
        exchange(&mut good).await;
        until_streams(&stage, &tunnel, 1).await;
        exchange(&mut connect(&tunnel.address).await).await;
    });
}

/// The client hears of it at once; the agent's stream waits for its turn.
#[test]
fn clients_that_are_refused_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Counting::begin(Frames::dial(&tunnel).await, Some(502));
        let since = Instant::now();
        for _ in 0..20 {
            let refused = join_all((0..150).map(|_| is_reset(&tunnel))).await;
            assert_eq!(refused, [true; 150]);
        }
        agent.until(|seen| seen.clients == 3000).await;
        let (seen, most) = (agent.seen(), most_resets(since));
        assert!(seen.resets <= most, "{seen:?} after {:?}", since.elapsed());
    });
}

#[test]
fn clients_that_are_left_to_others_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let leaving = Counting::begin(Frames::dial(&tunnel).await, Some(503));
        let knock = Knock::at(&tunnel.uri).query("resets=100000");
        let _taking = Counting::begin(Frames::dial_with(&tunnel, &knock, &[]).await, None);
        until_sessions(&stage, &tunnel, 2).await;
        let since = Instant::now();
        while leaving.seen().clients < 2000 {
            let mut clients = join_all((0..BATCH).map(|_| connect(&tunnel.address))).await;
            join_all(clients.iter_mut().map(exchange)).await;
            clients.into_iter().for_each(sockets::reset);
        }
        let (seen, most) = (leaving.seen(), most_resets(since));
        assert!(seen.resets <= most, "{seen:?} after {:?}", since.elapsed());
    });
}

/// A reset may be so quick that it is connecting that fails.
async fn is_reset(tunnel: &OpenedTunnel) -> bool {
    match try_connect(&tunnel.address).await {
        Ok(mut client) => hear(&mut client).await == Heard::reset_after(&[]),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Clients that come, of whom the agent has seen the first `seen` before they reset.
async fn come_and_reset(tunnel: &OpenedTunnel, agent: &mut Counting, clients: u32, seen: u32) {
    let before = agent.seen().clients;
    for last in (BATCH..=clients).step_by(BATCH as usize) {
        let batch = join_all((0..BATCH).map(|_| connect(&tunnel.address))).await;
        agent.until(|now| now.clients >= before + last.min(seen)).await;
        batch.into_iter().for_each(sockets::reset);
    }
}

async fn exchange(client: &mut TcpStream) {
    say(client, b"question").await;
    assert_eq!(hear_exactly(client, 8).await, b"question");
}

/// For an agent that has not said how many it bears.
fn most_resets(since: Instant) -> u32 {
    500 + 25 * (since.elapsed().as_secs() as u32 + 1)
}

const BATCH: u32 = 250;

/// An agent that counts what it hears.
struct Counting {
    seen: watch::Receiver<Seen>,
    _task: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    clients: u32,
    resets: u32,
}

impl Counting {
    /// Answers every client like this, or takes every other one at once and the rest when it says something, and says that
    /// again.
    fn begin(mut agent: Frames, status: Option<u16>) -> Self {
        let (told, seen) = watch::channel(Seen::default());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut taken = HashSet::new();
            while let Some(frame) = agent.next().await {
                let mut seen = *told.borrow();
                let mut answers = Vec::new();
                let is_new = match frame.kind {
                    HEADERS => {
                        seen.clients += 1;
                        status.is_none() && seen.clients % 2 == 0
                    }
                    RST_STREAM => {
                        seen.resets += 1;
                        false
                    }
                    DATA => status.is_none(),
                    _ => false,
                };
                if is_new && taken.insert(frame.stream) {
                    answers.push(Frame::taken(frame.stream));
                }
                match (frame.kind, status) {
                    // With a body, or without: either is an answer.
                    (HEADERS, Some(status)) if seen.clients % 2 == 0 => {
                        answers.push(Frame::declined(frame.stream, status));
                    }
                    (HEADERS, Some(status)) => {
                        answers.push(Frame::answer(frame.stream, status, 0));
                        answers.push(Frame::last_data(frame.stream, b"no"));
                    }
                    (DATA, None) => answers.push(Frame::data(frame.stream, &frame.payload)),
                    _ => {}
                }
                for answer in answers {
                    agent.say(&answer).await;
                }
                told.send_replace(seen);
            }
        });
        Self { seen, _task: task }
    }

    fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    async fn until(&mut self, wanted: impl FnMut(&Seen) -> bool) {
        let seen = soon("an agent to have seen enough", self.seen.wait_for(wanted)).await;
        seen.expect("an agent that goes on");
    }
}
