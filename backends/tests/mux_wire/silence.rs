//! Agents that say nothing.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tunnel_api::{AgentLoss, What};
use tunnel_backends::{
    carrier::ptth::Patience,
    testing::{Heard, Watch, connect, hear, keep, say, within},
};

use crate::{
    frames::{ACK, Frame, Frames, PING, SETTINGS},
    knock::Knock,
    mux::{Mux, open, until_sessions},
};

/// All at the same time, because it takes that long.
#[test]
fn an_agent_that_does_not_speak_http2_is_dropped_after_5_seconds() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let enter = async || Knock::at(&tunnel.uri).enter(&tunnel).await;
        let silent = async { until_dropped(enter().await).await };
        let only_settings = async {
            let mut socket = enter().await;
            socket.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
            until_dropped(socket).await;
        };
        // One byte every 100 ms of settings that are never complete.
        let dribbling = async {
            let (mut hears, mut says) = enter().await.into_split();
            let dribble = async {
                for byte in [0, 0, 240, SETTINGS, 0, 0, 0, 0, 0].into_iter().chain(std::iter::repeat(0)) {
                    if says.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            };
            let dropped = async { while !matches!(hears.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {} };
            tokio::select! {
                () = dribble => {}
                () = dropped => {}
            }
        };
        let all = Box::pin(async { join!(timed(silent), timed(only_settings), timed(dribbling)) });
        let (silent, only_settings, dribbling) = within(Duration::from_secs(9), "all to be dropped", all).await;
        for (took, what) in [(silent, "silent"), (only_settings, "only settings"), (dribbling, "dribbling")] {
            assert!((4500..7000).contains(&took.as_millis()), "{what}: {took:?}");
        }
        assert_eq!(stage.info(&tunnel).await.map(|info| info.sessions), Some(0));
    });
}

#[test]
fn an_agent_that_falls_silent_is_lost_and_its_clients_are_reset() {
    keep(&Mux { patience: SHORT, ..Mux::default() }, async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut watch = stage.watch().await;
        let mut agent = Frames::dial(&tunnel).await;
        watch.agent_connected(&tunnel.id).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        // Nobody listens to what the server says, so nobody answers it.
        let since = Instant::now();
        assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
        let took = since.elapsed();
        assert!((SHORT.dead_after.mul_f32(0.8)..Duration::from_secs(4)).contains(&took), "{took:?}");
        assert_eq!(loss(&mut watch).await, AgentLoss::Silent);
        let rest = agent.rest().await;
        assert!(rest.iter().all(|frame| [0, stream].contains(&frame.stream)), "{rest:?}");
    });
}

/// There is no room for a question then, and no answer is needed.
#[test]
fn an_agent_that_also_stops_reading_is_lost_too() {
    keep(&Mux { patience: SHORT, ..Mux::default() }, async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut watch = stage.watch().await;
        let knock = Knock::at(&tunnel.uri);
        let mut agent = Frames::dial_with(&tunnel, &knock, &[(crate::frames::INITIAL_WINDOW_SIZE, 1 << 30)]).await;
        watch.agent_connected(&tunnel.id).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        let flood = vec![b'~'; 64 * 1024];
        within(Duration::from_secs(8), "the flood to end", async { while client.write_all(&flood).await.is_ok() {} })
            .await;
        assert_eq!(loss(&mut watch).await, AgentLoss::Silent);
        drop(agent);
    });
}

#[test]
fn an_agent_that_answers_slowly_is_not_lost() {
    let patience = Patience { ping_after: Duration::from_millis(50), dead_after: Duration::from_millis(1500) };
    keep(&Mux { patience, ..Mux::default() }, async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        let since = Instant::now();
        while since.elapsed() < patience.dead_after * 2 {
            let frame = agent.any().await.expect("a session that goes on");
            if frame.kind == PING && frame.flags & ACK == 0 {
                sleep(patience.dead_after / 3).await;
                agent.say(&Frame::new(PING, ACK, 0, &frame.payload)).await;
            }
        }
        agent.serve(stream, &mut client).await;
    });
}

/// Its bytes say that it is there, whatever they are about.
#[test]
fn an_agent_that_talks_need_not_answer() {
    let patience = Patience { ping_after: Duration::from_millis(50), dead_after: Duration::from_millis(500) };
    keep(&Mux { patience, ..Mux::default() }, async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        let since = Instant::now();
        while since.elapsed() < patience.dead_after * 2 {
            agent.say(&Frame::data(stream, b"tick")).await;
            let heard = timeout(Duration::from_secs(2), client.read(&mut [0; 4])).await;
            assert!(matches!(heard, Ok(Ok(1..))), "{heard:?}");
            sleep(Duration::from_millis(20)).await;
        }
        say(&mut client, b"still there").await;
        assert_eq!(agent.hear_exactly(stream, 11).await, b"still there");
    });
}

/// How long that took.
async fn timed(dropped: impl Future<Output = ()>) -> Duration {
    let since = Instant::now();
    dropped.await;
    since.elapsed()
}

async fn until_dropped(mut socket: TcpStream) {
    // How it ends is no matter.
    let _ = socket.read_to_end(&mut Vec::new()).await;
}

async fn loss(watch: &mut Watch) -> AgentLoss {
    watch
        .until(|event| match event.what {
            What::AgentLost { loss, .. } => Some(loss),
            _ => None,
        })
        .await
}

const SHORT: Patience = Patience { ping_after: Duration::from_millis(100), dead_after: Duration::from_millis(400) };
