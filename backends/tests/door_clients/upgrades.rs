//! Connections that are taken over from HTTP.

use std::io::ErrorKind;

use http::{Response, StatusCode, header};
use tokio::{
    io::{AsyncWriteExt, copy, split},
    sync::mpsc,
};
use tunnel_backends::{
    door::{DoorTerms, HttpService, taken_over},
    relay::BoxDuplex,
    testing::{
        client::{Heard, hear, hear_exactly, say, say_all},
        soon,
    },
};

use crate::site::{Issued, answers, connect, door, whole};

/// Answers with a 101, and gives what it took over.
fn upgrades() -> (HttpService, mpsc::Receiver<BoxDuplex>) {
    let (give, given) = mpsc::channel(1);
    let service = answers(move |mut request| {
        let (upgraded, give) = (hyper::upgrade::on(&mut request), give.clone());
        tokio::spawn(
            async move { give.send(taken_over(upgraded.await.unwrap()).expect("a connection at a door")).await },
        );
        let mut response = Response::new(whole(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
        response.headers_mut().insert(header::UPGRADE, "echo".parse().unwrap());
        async move { response }
    });
    (service, given)
}

const ASKS: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

/// Reads the head of the 101.
async fn is_upgraded(client: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(hear_exactly(client, 1).await);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
}

async fn echo(io: BoxDuplex) {
    let (mut hears, mut says) = split(io);
    copy(&mut hears, &mut says).await.unwrap();
    says.shutdown().await.unwrap();
    // Still there for the client's end.
    hears.unsplit(says).finish_on_drop();
}

#[tokio::test]
async fn what_is_said_with_the_request_is_the_first_that_is_heard() {
    let (service, mut given) = upgrades();
    let door = door(DoorTerms::default(), service);
    let mut client = connect(door.addr()).await;
    say_all(&mut client, &[ASKS, b"at once"].concat()).await;
    is_upgraded(&mut client).await;
    tokio::spawn(echo(given.recv().await.unwrap()));
    assert_eq!(hear(&mut client).await, Heard::finished_after(b"at once"));
}

#[tokio::test]
async fn by_tls_an_end_is_one_and_the_other_direction_goes_on() {
    let issued = Issued::to("127.0.0.1");
    let (service, mut given) = upgrades();
    let door = door(issued.terms(None), service);
    let mut client = issued.connect(connect(door.addr()).await, "127.0.0.1").await.unwrap();
    say_all(&mut client, &[ASKS, b"at once"].concat()).await;
    is_upgraded(&mut client).await;
    tokio::spawn(echo(given.recv().await.unwrap()));
    assert_eq!(hear(&mut client).await, Heard::finished_after(b"at once"));
}

#[tokio::test]
async fn by_tls_an_abort_is_no_end() {
    let issued = Issued::to("127.0.0.1");
    let (service, mut given) = upgrades();
    let door = door(issued.terms(None), service);
    let mut client = issued.connect(connect(door.addr()).await, "127.0.0.1").await.unwrap();
    say(&mut client, ASKS).await;
    is_upgraded(&mut client).await;
    let mut taken = given.recv().await.unwrap();
    taken.abort_on_drop();
    drop(taken);
    let heard = hear(&mut client).await;
    assert_eq!(heard.end, Err(ErrorKind::ConnectionReset), "{heard:?}");
}

/// Whoever takes it over and fails must not make it look finished.
#[tokio::test]
async fn what_is_taken_over_and_dropped_is_reset() {
    let (service, mut given) = upgrades();
    let door = door(DoorTerms::default(), service);
    let mut client = connect(door.addr()).await;
    say(&mut client, ASKS).await;
    is_upgraded(&mut client).await;
    drop(given.recv().await.unwrap());
    assert_eq!(hear(&mut client).await, Heard::reset_after(b""));
}

#[tokio::test]
async fn much_is_relayed_by_tls_both_ways_to_its_end() {
    use tunnel_backends::relay::{Pace, Progress, RelayEnd, RelayTimes, relay};
    let issued = Issued::to("127.0.0.1");
    let (service, mut given) = upgrades();
    let door = door(issued.terms(None), service);
    let mut client = issued.connect(connect(door.addr()).await, "127.0.0.1").await.unwrap();
    say(&mut client, ASKS).await;
    is_upgraded(&mut client).await;
    let taken = given.recv().await.unwrap();
    let listener = tunnel_backends::sockets::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let (near, far) = tokio::join!(connect(listener.local_addr().unwrap()), listener.accept());
    let far = far.unwrap().0;
    let relayed = tokio::spawn(async move {
        let (progress, pace) = (Progress::default(), Pace::default());
        relay(taken, near, &progress, &pace, &RelayTimes::default(), &Default::default()).await
    });
    tokio::spawn(async move {
        let (mut hears, mut says) = far.into_split();
        copy(&mut hears, &mut says).await.unwrap();
    });
    let much = tunnel_backends::testing::client::pattern(1, 8 << 20);
    let (mut hears, mut says) = split(client);
    let (_, heard) = soon("an echo", async { tokio::join!(say_all(&mut says, &much), hear(&mut hears)) }).await;
    assert!(heard.bytes == much && heard.end.is_ok(), "{} bytes, {:?}", heard.bytes.len(), heard.end);
    assert_eq!(soon("its end", relayed).await.unwrap(), RelayEnd::Finished);
}
