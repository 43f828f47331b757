//! Frames that no agent may send (RFC 9113). They cost whoever sends them, and nobody else.

use tokio::net::TcpStream;
use tunnel_api::{AgentLoss, OpenedTunnel, What};
use tunnel_backends::testing::{
    Heard, Stage,
    client::{connect_with_little_room, hear_exactly},
    connect, hear, keep, say,
};

use crate::{
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FIRST_STREAM, Frame, Frames, GOAWAY, HEADERS,
        INITIAL_WINDOW_SIZE, NO_ERROR, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    },
    mux::{Mux, open, until_sessions, until_streams},
};

#[test]
fn a_frame_that_breaks_the_connections_rules_ends_that_session_alone() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut beside = Beside::begin(&stage, &tunnel).await;
        for (what, frames) in against_the_connection() {
            let (mut agent, mut client) = come(&stage, &tunnel).await;
            for frame in frames {
                // It may have hung up after the first of them.
                let _ = agent.try_say(&frame).await;
            }
            agent.rest().await;
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "{what}");
            beside.goes_on(&stage, &tunnel, what).await;
        }
    });
}

#[test]
fn a_frame_that_breaks_a_streams_rules_resets_that_client_alone() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut beside = Beside::begin(&stage, &tunnel).await;
        for (what, frames) in against_the_stream() {
            let (mut agent, mut client) = come(&stage, &tunnel).await;
            for frame in frames {
                agent.say(&frame).await;
            }
            assert_eq!(hear(&mut client).await, Heard::reset_after(&[]), "{what}");
            until_streams(&stage, &tunnel, 1).await;
            let mut next = connect(&tunnel.address).await;
            let stream = agent.client().await;
            agent.serve(stream, &mut next).await;
            drop(next);
            agent.hang_up().await;
            beside.goes_on(&stage, &tunnel, what).await;
        }
    });
}

/// The client may have heard its end by then, or hears a reset.
#[test]
fn a_stream_that_goes_on_after_its_end_ends_that_session_alone() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut beside = Beside::begin(&stage, &tunnel).await;
        for (what, more) in [
            ("DATA after the last", Frame::data(FIRST_STREAM, b"?")),
            ("END_STREAM twice", Frame::last_data(FIRST_STREAM, b"")),
        ] {
            let (mut agent, client) = come(&stage, &tunnel).await;
            for frame in [Frame::taken(FIRST_STREAM), Frame::last_data(FIRST_STREAM, b"all"), more] {
                agent.say(&frame).await;
            }
            agent.rest().await;
            drop(client);
            beside.goes_on(&stage, &tunnel, what).await;
        }
    });
}

#[test]
fn a_session_that_breaks_the_rules_is_lost_as_that() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut watch = stage.watch().await;
        let mut agent = Frames::dial(&tunnel).await;
        watch.agent_connected(&tunnel.id).await;
        agent.say(&Frame::data(0, b"?")).await;
        let loss = watch.until(|event| if let What::AgentLost { loss, .. } = event.what { Some(loss) } else { None });
        assert_eq!(loss.await, AgentLoss::Misbehaved);
        let rest = agent.rest().await;
        let goodbye = rest.iter().find(|frame| frame.kind == GOAWAY).expect("a word on why");
        assert_eq!(goodbye.payload[4..8], [0, 0, 0, 1], "a protocol error");
    });
}

/// What is on its way to a client that does not read is bounded, whoever sends it.
#[test]
fn an_agent_that_says_more_than_the_window_lets_it_loses_that_client() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut beside = Beside::begin(&stage, &tunnel).await;
        let mut agent = Frames::dial(&tunnel).await;
        until_sessions(&stage, &tunnel, 2).await;
        let client = connect_with_little_room(&tunnel.address).await;
        let stream = agent.client().await;
        agent.say(&Frame::taken(stream)).await;
        // More than the window and the kernel's largest buffers.
        let part = Frame::data(stream, &[b'~'; 64 * 1024]);
        for _ in 0..16 * 16 {
            agent.say(&part).await;
        }
        assert_eq!(agent.until_reset(stream).await, FLOW_CONTROL_ERROR);
        drop(client);
        agent.hang_up().await;
        beside.goes_on(&stage, &tunnel, "beyond the window").await;
    });
}

#[test]
fn frames_of_other_kinds_and_other_settings_are_passed_over() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let (mut agent, mut client) = come(&stage, &tunnel).await;
        let frames = [
            Frame::new(0xbe, 0xff, 0, b"whatever"),
            Frame::new(0xbe, 0xff, FIRST_STREAM, b"whatever"),
            Frame::settings(&[(0xbeef, 1), (8, 1)]),
            Frame::new(PRIORITY, 0, FIRST_STREAM + 6, &[0, 0, 0, 1, 0]),
            Frame::new(PING, ACK, 0, b"unasked!"),
            Frame::window_update(FIRST_STREAM, 1),
        ];
        for frame in frames {
            agent.say(&frame).await;
        }
        agent.serve(FIRST_STREAM, &mut client).await;
        // What comes for a stream that is over is late, and no offence.
        drop(client);
        until_streams(&stage, &tunnel, 0).await;
        agent.say(&Frame::window_update(FIRST_STREAM, 1)).await;
        agent.say(&Frame::reset(FIRST_STREAM, NO_ERROR)).await;
        let mut next = connect(&tunnel.address).await;
        let stream = agent.client().await;
        agent.serve(stream, &mut next).await;
    });
}

/// The session's one stream is [`FIRST_STREAM`], and has not been answered.
fn against_the_connection() -> Vec<(&'static str, Vec<Frame>)> {
    let one = |what, kind, flags, stream, payload: &[u8]| (what, vec![Frame::new(kind, flags, stream, payload)]);
    let it = FIRST_STREAM;
    let setting = |what, key, value| (what, vec![Frame::settings(&[(key, value)])]);
    vec![
        one("DATA on stream 0", DATA, 0, 0, b"?"),
        one("DATA on an idle stream", DATA, 0, it + 2, b"?"),
        one("DATA with more padding than data", DATA, 8, it, &[9, 1]),
        one("DATA longer than allowed", DATA, 0, it, &[0; 64 * 1024 + 1]),
        one("HEADERS on stream 0", HEADERS, END_HEADERS, 0, &OK),
        one("HEADERS on an idle stream", HEADERS, END_HEADERS, it + 2, &OK),
        one("HEADERS on an even stream", HEADERS, END_HEADERS, 2, &OK),
        one("HEADERS of no HPACK", HEADERS, END_HEADERS, it, &[0xff; 16]),
        one("HEADERS from an empty table", HEADERS, END_HEADERS, it, &[0x80 | 62]),
        one("a table larger than allowed", HEADERS, END_HEADERS, it, &[0x3f, 0xff, 0xff, 0x7f, OK[0]]),
        one("CONTINUATION of nothing", CONTINUATION, END_HEADERS, it, &OK),
        ("HEADERS that are not continued", vec![Frame::new(HEADERS, 0, it, &OK), Frame::data(it, b"?")]),
        ("HEADERS continued without end", {
            let more = std::iter::repeat_n(Frame::new(CONTINUATION, 0, it, &[]), 2000);
            std::iter::once(Frame::new(HEADERS, 0, it, &OK)).chain(more).collect()
        }),
        one("PRIORITY on stream 0", PRIORITY, 0, 0, &[0; 5]),
        one("RST_STREAM on stream 0", RST_STREAM, 0, 0, &[0; 4]),
        one("RST_STREAM on an idle stream", RST_STREAM, 0, it + 2, &[0; 4]),
        one("RST_STREAM of 3 bytes", RST_STREAM, 0, it, &[0; 3]),
        one("SETTINGS of 5 bytes", SETTINGS, 0, 0, &[0; 5]),
        one("SETTINGS on a stream", SETTINGS, 0, it, &[]),
        one("an acknowledgement that says something", SETTINGS, ACK, 0, &[0, 3, 0, 0, 0, 1]),
        setting("ENABLE_PUSH of 2", 2, 2),
        setting("INITIAL_WINDOW_SIZE of 2^31", INITIAL_WINDOW_SIZE, 1 << 31),
        setting("MAX_FRAME_SIZE of 1", 5, 1),
        one("PUSH_PROMISE", PUSH_PROMISE, END_HEADERS, it, &[0, 0, 0, 2, OK[0]]),
        one("PING of 7 bytes", PING, 0, 0, &[0; 7]),
        one("PING on a stream", PING, 0, it, &[0; 8]),
        one("GOAWAY on a stream", GOAWAY, 0, it, &[0; 8]),
        one("GOAWAY of 7 bytes", GOAWAY, 0, 0, &[0; 7]),
        (
            "a goodbye that takes back the one before",
            vec![Frame::goodbye(it, NO_ERROR), Frame::goodbye(it + 2, NO_ERROR)],
        ),
        one("WINDOW_UPDATE of 3 bytes", WINDOW_UPDATE, 0, 0, &[0; 3]),
        one("WINDOW_UPDATE of 0", WINDOW_UPDATE, 0, 0, &[0; 4]),
        one("WINDOW_UPDATE of an idle stream", WINDOW_UPDATE, 0, it + 2, &[0, 0, 0, 1]),
        ("a window that overflows", vec![Frame::window_update(0, (1 << 31) - 1)]),
        one("PRIORITY of 4 bytes", PRIORITY, 0, it, &[0; 4]),
        one("WINDOW_UPDATE of 0 on a stream", WINDOW_UPDATE, 0, it, &[0; 4]),
        one("DATA before the answer", DATA, 0, it, b"?"),
        one("an answer in capitals", HEADERS, END_HEADERS, it, &answer_with("Server", "loud")),
        one("a status that is none", HEADERS, END_HEADERS, it, &field(":status", "2xx")),
    ]
}

/// As above.
fn against_the_stream() -> Vec<(&'static str, Vec<Frame>)> {
    let it = FIRST_STREAM;
    let headers = |flags, block: &[u8]| Frame::new(HEADERS, END_HEADERS | flags, it, block);
    vec![
        ("a window that overflows", vec![Frame::window_update(it, (1 << 31) - 1)]),
        ("an answer without a status", vec![headers(0, &field("server", "none"))]),
        ("an interim answer that is the last", vec![Frame::answer(it, 103, END_STREAM)]),
        ("two answers", vec![Frame::taken(it), Frame::taken(it)]),
        ("a longer body than was said", vec![headers(0, &answer_with("content-length", "1")), Frame::data(it, b"??")]),
        ("an answer of 69 KB", vec![headers(0, &[OK.to_vec(), field("x", &"x".repeat(120)).repeat(450)].concat())]),
    ]
}

/// A literal with a new name, which is not indexed (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let sized = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [vec![0], sized(name), sized(value)].concat()
}

fn answer_with(name: &str, value: &str) -> Vec<u8> {
    [OK.to_vec(), field(name, value)].concat()
}

/// A session that joins those which are there, and a client that comes to it.
async fn come(stage: &Stage, tunnel: &OpenedTunnel) -> (Frames, TcpStream) {
    let sessions = stage.info(tunnel).await.map_or(0, |info| info.sessions);
    let mut agent = Frames::dial(tunnel).await;
    until_sessions(stage, tunnel, sessions + 1).await;
    let client = connect(&tunnel.address).await;
    assert_eq!(agent.client().await, FIRST_STREAM);
    (agent, client)
}

/// Another session of the same tunnel, and another tunnel, each with a client that is being served.
struct Beside {
    served: Vec<(Frames, TcpStream)>,
}

impl Beside {
    async fn begin(stage: &Stage, tunnel: &OpenedTunnel) -> Self {
        let mut served = Vec::new();
        for tunnel in [tunnel, &stage.open(1).await] {
            let (mut agent, client) = come(stage, tunnel).await;
            agent.say(&Frame::taken(FIRST_STREAM)).await;
            served.push((agent, client));
        }
        Self { served }
    }

    /// The offender has gone, and those here have noticed nothing.
    async fn goes_on(&mut self, stage: &Stage, tunnel: &OpenedTunnel, what: &str) {
        until_sessions(stage, tunnel, 1).await;
        until_streams(stage, tunnel, 1).await;
        for (agent, client) in &mut self.served {
            say(client, what.as_bytes()).await;
            assert_eq!(agent.hear_exactly(FIRST_STREAM, what.len()).await, what.as_bytes());
            agent.say(&Frame::data(FIRST_STREAM, what.as_bytes())).await;
            assert_eq!(hear_exactly(client, what.len()).await, what.as_bytes());
        }
    }
}

/// `:status: 200`, from HPACK's own table.
const OK: [u8; 1] = [0x88];

const FLOW_CONTROL_ERROR: u32 = 3;
