//! One client that is not read, or does not read, beside many that are busy.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::{io::AsyncWriteExt, join, net::TcpStream, sync::watch, time::timeout};
use tunnel_api::PublicAddress;
use tunnel_backends::testing::{
    client::{connect_with_little_room, hear_exactly},
    connect, keep, pattern, say, soon,
};

use crate::{
    agent::{Agent, echo},
    frames::{Frame, Frames, INITIAL_WINDOW_SIZE, PING},
    knock::Knock,
    mux::{Mux, open},
};

#[test]
fn a_client_that_does_not_read_stops_nobody_else_and_costs_its_window() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Agent::dial(&tunnel).await;
        let mut stopped = connect_with_little_room(&tunnel.address).await;
        let mut flooded = agent.client().await.take();
        let _agent = agent.serve(echo);
        let mut busy = Busy::come(&tunnel.address).await;
        let (said_in, mut said) = watch::channel(0);
        let flooding = tokio::spawn(async move {
            let part = Bytes::from(vec![b'~'; 16 * 1024]);
            while flooded.say(part.clone()).await.is_ok() {
                said_in.send_modify(|said| *said += part.len());
            }
        });
        hear_exactly(&mut stopped, 1).await;
        busy.talk().await;
        // Until no more goes; absence has no event.
        while timeout(Duration::from_millis(100), said.changed()).await.is_ok() {}
        let said = *said.borrow();
        assert!(said <= WINDOW + BUFFERS, "{said} bytes were taken for a client that does not read");
        busy.talk().await;
        // And it can go on.
        assert_eq!(hear_exactly(&mut stopped, said - 1).await, vec![b'~'; said - 1]);
        flooding.abort();
    });
}

#[test]
fn a_client_that_is_not_read_stops_nobody_else_and_costs_its_window() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Agent::dial(&tunnel).await;
        let mut flooding = connect(&tunnel.address).await;
        let mut stopped = agent.client().await.take();
        let _agent = agent.serve(echo);
        let mut busy = Busy::come(&tunnel.address).await;
        let flood = pattern(1, 4 * BUFFERS);
        let mut said = 0;
        // Until no more goes; absence has no event.
        while let Ok(some) = timeout(Duration::from_millis(200), flooding.write(&flood[said..])).await {
            said += some.expect("a client that nobody resets");
        }
        assert!(said <= WINDOW + BUFFERS, "{said} bytes were taken for an agent that does not read");
        busy.talk().await;
        // And it can go on.
        let mut heard = Vec::new();
        while heard.len() < said {
            let more = soon("a client's bytes", stopped.hear()).await.expect("more of them");
            heard.extend_from_slice(&more.expect("a stream that goes on"));
        }
        assert!(heard[..] == flood[..said], "other bytes than were said");
    });
}

/// Two that read nothing before they have answered a PING wait for each other for ever, once all that they can say is unread.
#[test]
fn an_agent_that_reads_nothing_for_now_is_heard_all_the_same() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial_with(&tunnel, &Knock::at(&tunnel.uri), &[(INITIAL_WINDOW_SIZE, 1 << 30)]).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        let flood = pattern(1, 1 << 20);
        // Until no more goes; absence has no event.
        while let Ok(said) = timeout(Duration::from_millis(300), client.write_all(&flood)).await {
            said.expect("a client that nobody resets");
        }
        for number in 0..3_u8 {
            agent.say(&Frame::new(PING, 0, 0, &[number; 8])).await;
            agent.say(&Frame::data(stream, &[number])).await;
            assert_eq!(hear_exactly(&mut client, 1).await, [number]);
        }
    });
}

/// 99 clients of an echo.
struct Busy(Vec<TcpStream>);

impl Busy {
    async fn come(address: &PublicAddress) -> Self {
        let mut busy = Self(join_all((0..99).map(|_| connect(address))).await);
        busy.talk().await;
        busy
    }

    /// All of them say much at once, and hear it again.
    async fn talk(&mut self) {
        let talked = join_all(self.0.iter_mut().zip(0..).map(async |(client, number)| {
            let words = pattern(number, 100_000);
            let (mut hears, mut says) = client.split();
            let ((), heard) = join!(say(&mut says, &words), hear_exactly(&mut hears, words.len()));
            heard == words
        }))
        .await;
        assert_eq!(talked.iter().filter(|heard| **heard).count(), 99, "busy clients that heard all they said");
    }
}

/// The most that a stream's window can be where 100 share the session's 64 MiB: more than the agent's is.
const WINDOW: usize = 512 * 1024;

/// Two sockets' (the larger part: on loopback what is written takes up to 4 MiB, and so does what is read), the relay's and
/// HTTP/2's.
const BUFFERS: usize = 8 * 1024 * 1024;
