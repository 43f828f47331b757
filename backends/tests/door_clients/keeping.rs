//! How long connections of web clients are kept.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
};
use tunnel_backends::{
    door::{Door, DoorTerms},
    meters::Meters,
    testing::{
        client::{Heard, hear, say},
        eventually, soon,
    },
};

use crate::site::{answers, connect, door, greets, metric, whole};

/// Makes a request on a connection that is kept, and hears the answer.
async fn ask(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    say(client, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        let mut some = [0; 512];
        let read = soon("an answer", client.read(&mut some)).await.unwrap();
        assert!(read > 0, "an end after {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&some[..read]);
    }
}

struct Kept {
    door: Door,
    meters: Arc<Meters>,
}

impl Kept {
    fn on(terms: DoorTerms) -> Self {
        let meters = Arc::new(Meters::default());
        Self { door: door(DoorTerms { meters: meters.clone(), ..terms }, greets()), meters }
    }

    fn idle(&self) -> u32 {
        metric(&self.meters, "tunnel_door_idle")
    }

    /// A connection that has made a request.
    async fn connect(&self) -> TcpStream {
        let mut client = connect(self.door.addr()).await;
        ask(&mut client).await;
        client
    }
}

#[tokio::test]
async fn a_connection_is_kept_between_its_requests() {
    let kept = Kept::on(DoorTerms::default());
    let mut client = kept.connect().await;
    for _ in 0..3 {
        ask(&mut client).await;
    }
    eventually("it is idle", async || kept.idle() == 1).await;
    drop(client);
    eventually("it has gone", async || kept.idle() == 0).await;
}

#[tokio::test]
async fn a_connection_that_makes_no_more_requests_is_closed_in_order() {
    let kept = Kept::on(DoorTerms { keep_alive: Duration::from_millis(50), ..DoorTerms::default() });
    let mut client = kept.connect().await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(b""));
    eventually("it has gone", async || kept.idle() == 0).await;
}

#[tokio::test]
async fn where_many_are_kept_the_one_that_was_idle_for_longest_makes_room() {
    let kept = Kept::on(DoorTerms { kept_alive: 2, ..DoorTerms::default() });
    let mut first = kept.connect().await;
    let mut second = kept.connect().await;
    eventually("both are idle", async || kept.idle() == 2).await;
    ask(&mut first).await;
    eventually("both are idle again", async || kept.idle() == 2).await;
    let mut third = kept.connect().await;
    assert_eq!(hear(&mut second).await, Heard::finished_after(b""));
    ask(&mut first).await;
    ask(&mut third).await;
}

#[tokio::test]
async fn a_request_under_way_is_not_idle_however_long_it_takes() {
    let slow = answers(async |_| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Response::new(whole("hello"))
    });
    let terms = DoorTerms { keep_alive: Duration::from_millis(20), kept_alive: 0, ..DoorTerms::default() };
    let door = door(terms, slow);
    ask(&mut connect(door.addr()).await).await;
}

/// Its first byte ends the silence, and from then on it is a first unit like any other.
#[tokio::test]
async fn a_second_request_that_is_dribbled_is_cut_off() {
    let kept = Kept::on(DoorTerms { first_unit: Duration::from_millis(200), ..DoorTerms::default() });
    let mut client = kept.connect().await;
    let dribbles = async {
        let mut unending = b"GET / HTTP/1.1\r\nx-more: ".iter().copied().chain(std::iter::repeat(b'x'));
        loop {
            let byte = [unending.next().unwrap_or_default()];
            if tokio::io::AsyncWriteExt::write_all(&mut client, &byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("it is cut off", dribbles).await;
}

#[tokio::test]
async fn silence_between_requests_is_no_slow_head() {
    let kept = Kept::on(DoorTerms { first_unit: Duration::from_millis(30), ..DoorTerms::default() });
    let mut client = kept.connect().await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    ask(&mut client).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    ask(&mut client).await;
}

#[tokio::test]
async fn a_connection_of_http_2_without_requests_is_told_to_go() {
    let kept = Kept::on(DoorTerms { keep_alive_http2: Duration::from_millis(50), ..DoorTerms::default() });
    let socket = connect(kept.door.addr()).await;
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let (response, _) = sender.send_request(Request::get("http://h/").body(()).unwrap(), true).unwrap();
    let mut body = soon("an answer", response).await.unwrap().into_body();
    assert_eq!(soon("its body", body.data()).await.unwrap().unwrap(), "hello");
    drop(body);
    // By a GOAWAY, or this would be an error.
    soon("an end", connection).await.unwrap().unwrap();
    let refused = soon("a refusal", sender.clone().ready()).await.map(drop).unwrap_err();
    assert!(!refused.is_reset(), "{refused}");
}

/// Nobody's connection but web clients' is: callers watch, and come back.
#[tokio::test]
async fn connections_of_callers_stay() {
    use std::convert::Infallible;

    use hyper::body::Incoming;
    use tower::service_fn;
    use tunnel_backends::door::{HttpService, Newcomer};
    let accepts = HttpService::new(service_fn(async |request: Request<Incoming>| {
        request.extensions().get::<Newcomer>().unwrap().accept();
        Ok::<_, Infallible>(Response::new(whole("hello")))
    }));
    let terms = DoorTerms { keep_alive_http2: Duration::from_millis(20), kept_alive: 0, ..DoorTerms::default() };
    let door = door(terms, accepts);
    let (mut sender, connection) = h2::client::handshake(connect(door.addr()).await).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..2 {
        let (response, _) = sender.send_request(Request::get("http://h/").body(()).unwrap(), true).unwrap();
        soon("an answer", response).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    connection.abort();
}

/// What is in the kernel's queue is not lost with the connection that is idle above it.
#[tokio::test]
async fn a_slow_reader_of_a_long_answer_loses_nothing_of_it_when_its_connection_is_closed() {
    const LENGTH: usize = 300 * 1024;
    let long = answers(async |_| Response::new(whole(vec![b'x'; LENGTH])));
    let door = door(DoorTerms { keep_alive: Duration::from_millis(30), ..DoorTerms::default() }, long);
    let mut client = connect(door.addr()).await;
    say(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let heard = hear(&mut client).await;
    let body = heard.bytes.iter().filter(|byte| **byte == b'x').count();
    assert_eq!((body, heard.end), (LENGTH, Ok::<_, ErrorKind>(())));
}
