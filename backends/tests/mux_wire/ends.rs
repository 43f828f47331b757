//! How streams and sessions end: END_STREAM, RST_STREAM, and connections that are cut.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tunnel_api::{AgentLoss, CloseReason, OpenedTunnel, TunnelRef, What};
use tunnel_backends::testing::{
    Heard,
    client::{hear_exactly, refuses, socket_addr},
    connect, hear, keep, pattern, say, soon, within,
};

use crate::{
    frames::{CANCEL, DATA, END_STREAM, Frame, Frames, NO_ERROR},
    mux::{Mux, open, until_sessions, until_streams},
};

/// As Go's and the `h2` crate's servers do to a client that still talks when all has been answered.
#[test]
fn an_answer_that_was_finished_is_whole_though_the_stream_is_reset_after_it() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        for code in [NO_ERROR, CANCEL] {
            for length in [0, 1, 200_000] {
                let (mut client, stream) = taken(&tunnel, &mut agent).await;
                let answer = pattern(3, length);
                for part in answer.chunks(16_000) {
                    agent.say(&Frame::data(stream, part)).await;
                }
                agent.say(&Frame::last_data(stream, &[])).await;
                agent.say(&Frame::reset(stream, code)).await;
                let heard = hear(&mut client).await;
                assert!(heard == Heard::finished_after(&answer), "code {code}, {length} bytes: {heard:?}");
                drop(client);
                until_streams(&stage, &tunnel, 0).await;
            }
        }
    });
}

#[test]
fn an_answer_is_whole_though_the_client_was_still_talking() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let (client, stream) = taken(&tunnel, &mut agent).await;
        let (mut hears, mut says) = client.into_split();
        let talking = tokio::spawn(async move {
            let more = vec![b'~'; 64 * 1024];
            for _ in 0..64 {
                says.write_all(&more).await?;
            }
            says.shutdown().await
        });
        agent.pick("the client's words", |frame| frame.kind == DATA).await;
        for frame in [Frame::last_data(stream, b"enough"), Frame::reset(stream, NO_ERROR)] {
            agent.say(&frame).await;
        }
        assert_eq!(hear(&mut hears).await, Heard::finished_after(b"enough"));
        soon("the client to have talked", talking).await.unwrap().expect("a client that nobody resets");
    });
}

#[test]
fn an_answer_that_is_over_with_its_head_is_an_end() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let mut client = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::answer(stream, 200, END_STREAM)).await;
        assert_eq!(hear(&mut client).await, Heard::finished_after(&[]));
        say(&mut client, b"and you?").await;
        client.shutdown().await.unwrap();
        assert_eq!(agent.hear(stream).await, b"and you?");
    });
}

/// Whatever the code: that there was no error does not make half an answer whole.
#[test]
fn a_reset_without_an_end_is_a_reset() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        for code in [NO_ERROR, CANCEL, 7] {
            let (mut client, stream) = taken(&tunnel, &mut agent).await;
            agent.say(&Frame::data(stream, b"half")).await;
            assert_eq!(hear_exactly(&mut client, 4).await, b"half");
            agent.say(&Frame::reset(stream, code)).await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "code {code}");
        }
    });
}

#[test]
fn what_was_said_before_a_reset_is_heard_before_it() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let (mut client, stream) = taken(&tunnel, &mut agent).await;
        let half = pattern(5, 100_000);
        for part in half.chunks(16_000) {
            agent.say(&Frame::data(stream, part)).await;
        }
        agent.say(&Frame::reset(stream, NO_ERROR)).await;
        let heard = hear(&mut client).await;
        assert!(heard == Heard::reset_after(&half), "{heard:?}");
    });
}

#[test]
fn a_client_that_resets_is_a_cancel_to_the_agent() {
    keep(&Mux::default(), async |rig| {
        let (_stage, tunnel) = open(rig).await;
        let mut agent = Frames::dial(&tunnel).await;
        let (mut client, stream) = taken(&tunnel, &mut agent).await;
        say(&mut client, b"!").await;
        agent.hear_exactly(stream, 1).await;
        tunnel_backends::sockets::reset(client);
        assert_eq!(agent.until_reset(stream).await, CANCEL);
    });
}

#[test]
fn an_agent_that_is_cut_off_resets_its_clients_and_keeps_its_address() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut watch = stage.watch().await;
        for is_reset in [false, true] {
            let mut agent = Frames::dial(&tunnel).await;
            until_sessions(&stage, &tunnel, 1).await;
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(taken(&tunnel, &mut agent).await.0);
            }
            if is_reset {
                agent.reset();
            } else {
                drop(agent);
            }
            for heard in join_all(clients.iter_mut().map(hear)).await {
                assert_eq!(heard, Heard::reset_after(&[]));
            }
            let loss =
                watch.until(|event| if let What::AgentLost { loss, .. } = event.what { Some(loss) } else { None });
            assert_eq!(loss.await, AgentLoss::HungUp);
            let since = Instant::now();
            let mut client = connect(&tunnel.address).await;
            let mut next = Frames::dial(&tunnel).await;
            let stream = next.client().await;
            next.serve(stream, &mut client).await;
            assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
            drop((client, next));
            watch.agent_lost(&tunnel.id).await;
        }
    });
}

#[test]
fn closing_a_tunnel_closes_its_sessions() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut watch = stage.watch().await;
        let mut agents = [Frames::dial(&tunnel).await, Frames::dial(&tunnel).await];
        until_sessions(&stage, &tunnel, 2).await;
        let mut waiting = Frames::begin(crate::knock::Knock::at(&tunnel.uri).enter(&tunnel).await).await;
        let mut client = connect(&tunnel.address).await;
        agents[0].client().await;
        stage.close(TunnelRef::Id(tunnel.id.clone())).await.unwrap();
        assert_eq!(watch.closed(&tunnel.id).await, CloseReason::Requested);
        for agent in &mut agents {
            within(Duration::from_secs(1), "the server to hang up", agent.rest()).await;
        }
        within(Duration::from_secs(1), "the server to hang up", waiting.rest()).await;
        assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
        assert!(refuses(socket_addr(&tunnel.address)).await);
    });
}

async fn taken(tunnel: &OpenedTunnel, agent: &mut Frames) -> (TcpStream, u32) {
    let client = connect(&tunnel.address).await;
    let stream = agent.client().await;
    agent.say(&Frame::taken(stream)).await;
    (client, stream)
}
