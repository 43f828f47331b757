//! Several sessions of one tunnel.

use tokio::net::TcpStream;
use tunnel_api::{OpenedTunnel, What};
use tunnel_backends::testing::{Heard, Stage, connect, hear, keep};

use crate::{
    frames::{FIRST_STREAM, Frame, Frames},
    knock::Knock,
    mux::{Mux, open, until_sessions, until_streams},
};

#[test]
fn clients_go_to_the_session_with_the_fewest() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agents = come(&stage, &tunnel, 3).await;
        let (mut clients, mut of_the_second) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            for (number, agent) in agents.iter_mut().enumerate() {
                let client = connect(&tunnel.address).await;
                let stream = agent.client().await;
                if number == 1 { of_the_second.push((client, stream)) } else { clients.push(client) }
            }
        }
        // It loses both, and gets the next two.
        for (mut client, stream) in of_the_second {
            agents[1].say(&Frame::declined(stream, 502)).await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
        }
        until_streams(&stage, &tunnel, 4).await;
        for _ in 0..2 {
            clients.push(connect(&tunnel.address).await);
            agents[1].client().await;
        }
    });
}

#[test]
fn a_session_that_died_gets_no_more_clients() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut agents = come(&stage, &tunnel, 2).await;
        agents[0].hang_up().await;
        until_sessions(&stage, &tunnel, 1).await;
        for _ in 0..4 {
            let mut client = connect(&tunnel.address).await;
            let stream = agents[1].client().await;
            agents[1].serve(stream, &mut client).await;
        }
    });
}

#[test]
fn an_agent_that_comes_again_replaces_its_earlier_session_at_once() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let me = Knock::at(&tunnel.uri).query("agent=me");
        let mut watch = stage.watch().await;
        let mut earlier = Frames::dial_with(&tunnel, &me, &[]).await;
        watch.agent_connected(&tunnel.id).await;
        let (mut client, stream) = taken(&tunnel, &mut earlier).await;

        let mut later = Frames::dial_with(&tunnel, &me, &[]).await;
        let (agent, took_over) = watch
            .until(|event| match event.what {
                What::AgentConnected { agent, took_over } => Some((agent, took_over)),
                _ => None,
            })
            .await;
        assert_eq!((agent, took_over), (later.addr(), Some(earlier.addr())));
        assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
        let rest = earlier.rest().await;
        assert!(rest.iter().all(|frame| [0, stream].contains(&frame.stream)), "{rest:?}");
        until_sessions(&stage, &tunnel, 1).await;
        let mut client = connect(&tunnel.address).await;
        let stream = later.client().await;
        later.serve(stream, &mut client).await;
    });
}

#[test]
fn agents_of_other_names_and_of_none_replace_nobody() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let other_tunnel = stage.open(1).await;
        let mut agents = Vec::new();
        for (number, query) in (1..).zip(["agent=a", "agent=A", "", "", "name=a", "agent=aa"]) {
            agents.push(Frames::dial_with(&tunnel, &Knock::at(&tunnel.uri).query(query), &[]).await);
            until_sessions(&stage, &tunnel, number).await;
        }
        let same_name = Knock::at(&other_tunnel.uri).query("agent=a");
        let _elsewhere = Frames::dial_with(&other_tunnel, &same_name, &[]).await;
        until_sessions(&stage, &other_tunnel, 1).await;
        for agent in &mut agents {
            let _client = connect(&tunnel.address).await;
            assert_eq!(agent.client().await, FIRST_STREAM);
        }
    });
}

/// Or a name that somebody learnt, and a ticket, would be enough to stop a tunnel with a single request.
#[test]
fn an_agent_is_replaced_only_by_one_that_speaks() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let me = Knock::at(&tunnel.uri).query("agent=me");
        let mut earlier = Frames::dial_with(&tunnel, &me, &[]).await;
        until_sessions(&stage, &tunnel, 1).await;
        let mute = Frames::begin(me.enter(&tunnel).await).await;
        for _ in 0..3 {
            let mut client = connect(&tunnel.address).await;
            let stream = earlier.client().await;
            earlier.serve(stream, &mut client).await;
        }
        drop(mute);
    });
}

/// Each is there before the next one comes.
async fn come(stage: &Stage, tunnel: &OpenedTunnel, count: u32) -> Vec<Frames> {
    let mut agents = Vec::new();
    for number in 1..=count {
        agents.push(Frames::dial(tunnel).await);
        until_sessions(stage, tunnel, number).await;
    }
    agents
}

async fn taken(tunnel: &OpenedTunnel, agent: &mut Frames) -> (TcpStream, u32) {
    let client = connect(&tunnel.address).await;
    let stream = agent.client().await;
    agent.say(&Frame::taken(stream)).await;
    (client, stream)
}
