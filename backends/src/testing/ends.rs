//! A stream ends in one of two ways, finished or aborted, and the other side sees the same one.

use std::io::ErrorKind;

use tokio::{join, net::TcpStream};
use tunnel_api::{OpenedTunnel, StreamEnd};

use super::{
    AgentStream, Rig, Stage, TestAgent, Watch,
    client::{Heard, abort, connect, connect_with_little_room, hear, hear_exactly, pattern, say, say_all},
    rig::WAITING,
    watch::Ended,
};

/// A tunnel with an agent, and a watcher.
struct Scene {
    watch: Watch,
    tunnel: OpenedTunnel,
    agent: TestAgent,
    _stage: Stage,
}

impl Scene {
    async fn on(rig: &dyn Rig) -> Self {
        let stage = Stage::new(rig);
        let watch = stage.watch().await;
        let tunnel = stage.open(WAITING).await;
        let agent = TestAgent::dial(&tunnel.uri, WAITING);
        Self { watch, tunnel, agent, _stage: stage }
    }

    /// A client and its stream at the agent. [`HI`] has been said and heard.
    async fn pair(&mut self) -> (TcpStream, AgentStream) {
        let client = connect(&self.tunnel.address).await;
        self.pair_of(client).await
    }

    /// The same, and what the client has not read is still with the server.
    async fn pair_with_little_room(&mut self) -> (TcpStream, AgentStream) {
        let client = connect_with_little_room(&self.tunnel.address).await;
        self.pair_of(client).await
    }

    async fn pair_of(&mut self, mut client: TcpStream) -> (TcpStream, AgentStream) {
        say(&mut client, HI).await;
        let mut stream = self.agent.accept().await;
        assert_eq!(hear_exactly(&mut stream.io, HI.len()).await, HI);
        (client, stream)
    }
}

const HI: &[u8] = b"hi";

/// The end of one direction leaves the other one alone.
pub async fn a_client_that_half_closes_still_gets_its_answer(rig: &dyn Rig) {
    let (mut client, mut stream) = Scene::on(rig).await.pair().await;
    let (request, answer) = (pattern(1, 5000), pattern(2, 300_000));
    say_all(&mut client, &request).await;
    assert_eq!(hear(&mut stream.io).await, Heard::finished_after(&request));
    let ((), heard) = join!(say_all(&mut stream.io, &answer), hear(&mut client));
    assert_eq!(heard, Heard::finished_after(&answer));
}

/// The same the other way.
pub async fn an_agent_that_half_closes_still_gets_what_the_client_sends(rig: &dyn Rig) {
    let (mut client, mut stream) = Scene::on(rig).await.pair().await;
    let (greeting, upload) = (pattern(1, 5000), pattern(2, 300_000));
    say_all(&mut stream.io, &greeting).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&greeting));
    let ((), heard) = join!(say_all(&mut client, &upload), hear(&mut stream.io));
    assert_eq!(heard, Heard::finished_after(&upload));
}

/// To the byte, each way.
pub async fn a_finished_stream_is_reported_with_its_bytes(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let (mut client, mut stream) = scene.pair().await;
    say_all(&mut client, &pattern(1, 1000)).await;
    assert_eq!(hear(&mut stream.io).await, Heard::finished_after(&pattern(1, 1000)));
    say_all(&mut stream.io, &pattern(2, 70_000)).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&pattern(2, 70_000)));
    stream.close();
    let expected = Ended { end: StreamEnd::Finished, to_agent: HI.len() as u64 + 1000, to_client: 70_000 };
    assert_eq!(scene.watch.ended().await, expected);
}

/// An error, where an end would look as if it had finished.
pub async fn a_client_that_resets_is_an_abort_to_the_agent(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let (mut client, mut stream) = scene.pair().await;
    say(&mut client, &pattern(1, 1000)).await;
    hear_exactly(&mut stream.io, 1000).await;
    abort(client).await;
    let heard = hear(&mut stream.io).await;
    assert!(heard.end.is_err(), "the agent heard {heard:?}");
    let expected = Ended { end: StreamEnd::AbortedByClient, to_agent: HI.len() as u64 + 1000, to_client: 0 };
    assert_eq!(scene.watch.ended().await, expected);
}

/// A reset, where an end would look as if it had finished.
pub async fn an_agent_that_aborts_is_a_reset_to_the_client(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let (mut client, mut stream) = scene.pair().await;
    say(&mut stream.io, &pattern(1, 1000)).await;
    hear_exactly(&mut client, 1000).await;
    stream.abort().await;
    assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
    let expected = Ended { end: StreamEnd::AbortedByAgent, to_agent: HI.len() as u64, to_client: 1000 };
    assert_eq!(scene.watch.ended().await, expected);
}

/// An abort does not overtake it, however much it is.
pub async fn what_was_said_before_an_abort_is_heard_before_it(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    for size in [1, 1000, 1024 * 1024] {
        let words = pattern(size as u64, size);

        let (mut client, mut stream) = scene.pair().await;
        let agent_speaks = async {
            say(&mut stream.io, &words).await;
            stream.abort().await;
        };
        let ((), heard) = join!(agent_speaks, hear(&mut client));
        assert!(heard == Heard::reset_after(&words), "of {size} bytes the client heard {heard:?}");

        let (mut client, mut stream) = scene.pair().await;
        let client_speaks = async {
            say(&mut client, &words).await;
            abort(client).await;
        };
        let ((), heard) = join!(client_speaks, hear(&mut stream.io));
        assert!(heard.bytes == words && heard.end.is_err(), "of {size} bytes the agent heard {heard:?}");
    }
}

/// What is still with the server then is not thrown away.
pub async fn what_was_said_before_an_abort_reaches_a_slow_reader(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let words = pattern(1, LONG_ANSWER);
    for _ in 0..5 {
        let (mut client, mut stream) = scene.pair_with_little_room().await;
        say(&mut stream.io, &words).await;
        stream.abort().await;
        // The server has some time to notice, before the client reads on.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let heard = hear(&mut client).await;
        assert!(heard == Heard::reset_after(&words), "the client heard {heard:?}");
    }
}

/// Wherever it is cut.
pub async fn a_truncated_answer_never_looks_complete(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let answer = pattern(1, 1024 * 1024);
    for cut in [0, 1, 65_536, 300_000, 1024 * 1024] {
        let (mut client, mut stream) = scene.pair().await;
        let agent_speaks = async {
            say(&mut stream.io, &answer[..cut]).await;
            // At once: some of it may be lost, but not unnoticed.
            drop(stream);
        };
        let ((), heard) = join!(agent_speaks, hear(&mut client));
        assert_eq!(heard.end, Err(ErrorKind::ConnectionReset), "cut after {cut} bytes: {heard:?}");
        assert!(answer[..cut].starts_with(&heard.bytes), "cut after {cut} bytes: {heard:?}");
    }
}

/// An origin answers early, closes, and meets the rest of the upload with a reset.
pub async fn an_answer_survives_an_upload_that_nobody_wants(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let (mut client, mut stream) = scene.pair_with_little_room().await;
    let answer = pattern(1, LONG_ANSWER);
    say_all(&mut stream.io, &answer).await;
    hear_exactly(&mut client, 1).await;
    stream.close();

    say_all(&mut client, &pattern(2, 1024 * 1024)).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&answer[1..]));
    let ended = scene.watch.ended().await;
    assert_eq!((ended.end, ended.to_client), (StreamEnd::Finished, LONG_ANSWER as u64));
}

/// An origin closes without having looked at what its client sent, and the client sends on.
pub async fn an_answer_survives_input_that_nobody_read(rig: &dyn Rig) {
    let mut scene = Scene::on(rig).await;
    let (mut client, mut stream) = scene.pair_with_little_room().await;
    let answer = pattern(1, LONG_ANSWER);
    say(&mut client, &pattern(2, 20_000)).await;
    hear_exactly(&mut stream.io, 1).await;
    say_all(&mut stream.io, &answer).await;
    stream.close();

    say(&mut client, &pattern(3, 20_000)).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&answer));
    drop(client);
    let ended = scene.watch.ended().await;
    assert_eq!((ended.end, ended.to_client), (StreamEnd::Finished, LONG_ANSWER as u64));
}

/// More than a client with little room holds, and no more than the server's socket does.
const LONG_ANSWER: usize = 12_000;
