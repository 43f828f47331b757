//! What goes in at one end comes out at the other.

use tokio::{io::AsyncWriteExt, join};

use super::{
    Rig, Stage, TestAgent,
    client::{Heard, connect, hear, hear_exactly, pattern, say, say_all},
    echo,
    rig::WAITING,
};

/// Around the sizes of the buffers on the way, and well above all of them.
pub async fn every_size_comes_back_as_it_was_sent(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let _agent = TestAgent::dial(&tunnel.uri, WAITING).serve(echo);
    for size in [0, 1, 100, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 3 * 1024 * 1024] {
        let sent = pattern(size as u64, size);
        let mut client = connect(&tunnel.address).await;
        let (mut hears, mut says) = client.split();
        let ((), heard) = join!(say_all(&mut says, &sent), hear(&mut hears));
        assert!(heard == Heard::finished_after(&sent), "{size} bytes came back as {heard:?}");
    }
}

/// Neither waits for the other.
pub async fn both_directions_carry_bytes_at_once(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
    let mut client = connect(&tunnel.address).await;
    // A client's first byte may be what opens its stream.
    say(&mut client, b"!").await;
    let mut stream = agent.accept().await;
    hear_exactly(&mut stream.io, 1).await;

    let (upload, download) = (pattern(1, MUCH), pattern(2, MUCH));
    let (mut client_hears, mut client_says) = client.split();
    let (mut agent_hears, mut agent_says) = tokio::io::split(&mut stream.io);
    let ((), (), at_agent, at_client) = join!(
        say_all(&mut client_says, &upload),
        say_all(&mut agent_says, &download),
        hear(&mut agent_hears),
        hear(&mut client_hears),
    );
    assert_eq!(at_agent, Heard::finished_after(&upload));
    assert_eq!(at_client, Heard::finished_after(&download));
    stream.close();
}

/// As in SMTP or SSH: the client says nothing until it has heard something.
pub async fn a_server_that_speaks_first_is_heard(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
    let mut client = connect(&tunnel.address).await;
    let mut stream = agent.accept().await;
    say(&mut stream.io, b"220 welcome\r\n").await;
    assert_eq!(hear_exactly(&mut client, 13).await, b"220 welcome\r\n");
    client.write_all(b"QUIT\r\n").await.expect("a client that may answer");
    assert_eq!(hear_exactly(&mut stream.io, 6).await, b"QUIT\r\n");
}

/// Not the server's, and not another client's.
pub async fn the_agent_learns_the_clients_real_address(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
    for _ in 0..3 {
        let client = connect(&tunnel.address).await;
        let stream = agent.accept().await;
        assert_eq!(stream.client_addr, client.local_addr().expect("the client's address"));
    }
}

const MUCH: usize = 3 * 1024 * 1024;
