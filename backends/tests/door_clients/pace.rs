//! What web clients ask for and get is not slowed down.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_backends::{
    door::DoorTerms,
    testing::{client::say, within},
};

use crate::site::{answers, connect, door, greets, whole};

/// And empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const LONG: Duration = Duration::from_secs(30);

/// Paced, they would take eight seconds and more.
#[tokio::test]
async fn ten_thousand_requests_on_one_connection_of_http_2_are_answered_at_once() {
    let door = door(DoorTerms::default(), greets());
    let (sender, connection) = h2::client::handshake(connect(door.addr()).await).await.unwrap();
    let connection = tokio::spawn(connection);
    let begun = Instant::now();
    within(LONG, "ten thousand answers", async {
        let mut sender = sender;
        for _ in 0..200 {
            let mut answers = Vec::new();
            for _ in 0..50 {
                sender = sender.ready().await.unwrap();
                answers.push(sender.send_request(Request::get("http://h/").body(()).unwrap(), true).unwrap().0);
            }
            for answer in answers {
                let mut body = answer.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "hello");
            }
        }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    connection.abort();
}

#[tokio::test]
async fn ten_thousand_requests_on_one_connection_of_http_1_are_answered_at_once() {
    let door = door(DoorTerms::default(), greets());
    let mut client = connect(door.addr()).await;
    let begun = Instant::now();
    within(LONG, "ten thousand answers", async {
        let mut heard = vec![0; 8192];
        for _ in 0..10_000 {
            say(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
            let mut known = 0;
            while !heard[..known].ends_with(b"hello") {
                known += client.read(&mut heard[known..]).await.unwrap();
            }
        }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// What they do not ask for is.
#[tokio::test]
async fn a_flood_on_a_web_clients_connection_is_paced_as_ever() {
    let door = door(DoorTerms::default(), greets());
    let (mut hears, mut says) = connect(door.addr()).await.into_split();
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7];
    // GET http://h/, by RFC 7541's static table.
    let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'h'];
    says.write_all(&[PREFACE, &get].concat()).await.unwrap();
    let flood = tokio::spawn(async move { while says.write_all(&ping.repeat(1000)).await.is_ok() {} });
    let (begun, mut answered, mut some) = (Instant::now(), 0, vec![0; 64 * 1024]);
    while begun.elapsed() < Duration::from_secs(2) {
        answered += within(LONG, "an answer", hears.read(&mut some)).await.unwrap() / ping.len();
    }
    flood.abort();
    assert!((1_000..7_000).contains(&answered), "{answered} answers in two seconds");
}

/// 64 MiB are 4,096 frames, and as many to let more come.
#[tokio::test]
async fn bulk_is_not_paced_whichever_way_it_goes() {
    const LENGTH: usize = 64 << 20;
    let echoes = answers(async |request| {
        let heard = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(heard.len(), LENGTH);
        Response::new(whole(heard))
    });
    let door = door(DoorTerms::default(), echoes);
    let (mut sender, connection) = h2::client::handshake(connect(door.addr()).await).await.unwrap();
    let connection = tokio::spawn(connection);
    let begun = Instant::now();
    within(LONG, "an echo", async {
        let (answer, mut upload) = sender.send_request(Request::post("http://h/").body(()).unwrap(), false).unwrap();
        upload.send_data(Bytes::from(vec![7; LENGTH]), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let mut heard = 0;
        while let Some(some) = body.data().await {
            let some = some.unwrap().len();
            heard += some;
            body.flow_control().release_capacity(some).unwrap();
        }
        assert_eq!(heard, LENGTH);
    })
    .await;
    println!("{LENGTH} bytes each way: {:?}", begun.elapsed());
    connection.abort();
}
