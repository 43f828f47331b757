//! What is cut short is reset, and all else ends in order.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    sync::oneshot,
};
use tunnel_backends::{
    door::{DoorTerms, HttpBody, HttpService},
    testing::{
        client::{abort, hear, say, say_all},
        soon,
    },
};

use crate::site::{Issued, answers, connect, door, greets, whole};

/// An answer that breaks off after this.
fn broken(after: &'static [u8]) -> HttpBody {
    let error = io::Error::from(ErrorKind::ConnectionReset);
    let frames = [Ok(Frame::data(Bytes::from_static(after))), Err(error.into())];
    HttpBody::new(StreamBody::new(stream::iter(frames)))
}

fn breaks_off() -> HttpService {
    answers(async |_| Response::new(broken(b"half an ans")))
}

/// An answer without a length that simply ends looks whole.
#[tokio::test]
async fn an_answer_of_http_1_0_that_is_cut_short_is_a_reset() {
    let door = door(DoorTerms::default(), breaks_off());
    let mut client = connect(door.addr()).await;
    say(&mut client, b"GET / HTTP/1.0\r\n\r\n").await;
    let heard = hear(&mut client).await;
    assert_eq!(heard.end, Err(ErrorKind::ConnectionReset), "{heard:?}");
}

#[tokio::test]
async fn an_answer_of_http_1_1_that_is_cut_short_is_a_reset_after_what_was_said() {
    let door = door(DoorTerms::default(), breaks_off());
    let mut client = connect(door.addr()).await;
    say(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let heard = hear(&mut client).await;
    assert_eq!(heard.end, Err(ErrorKind::ConnectionReset), "{heard:?}");
    assert!(!heard.bytes.ends_with(b"0\r\n\r\n"), "{heard:?}");
}

/// In TLS an end without a goodbye is none.
#[tokio::test]
async fn an_answer_by_tls_that_is_cut_short_has_no_end() {
    let issued = Issued::to("127.0.0.1");
    let door = door(issued.terms(None), breaks_off());
    let mut client = issued.connect(connect(door.addr()).await, "127.0.0.1").await.unwrap();
    say(&mut client, b"GET / HTTP/1.0\r\n\r\n").await;
    let heard = hear(&mut client).await;
    assert!(heard.end.is_err(), "{heard:?}");
}

#[tokio::test]
async fn an_answer_of_http_1_0_that_is_whole_ends_in_order() {
    let door = door(DoorTerms::default(), greets());
    let mut client = connect(door.addr()).await;
    say(&mut client, b"GET / HTTP/1.0\r\n\r\n").await;
    let heard = hear(&mut client).await;
    assert!(heard.end.is_ok() && heard.bytes.ends_with(b"hello"), "{heard:?}");
}

/// hyper says nothing of it to the socket.
#[tokio::test]
async fn an_upgrade_that_is_refused_ends_in_order() {
    for close in ["", "connection: close\r\n"] {
        let door = door(DoorTerms::default(), greets());
        let mut client = connect(door.addr()).await;
        let asks = format!("GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: none\r\n{close}\r\n");
        say_all(&mut client, asks.as_bytes()).await;
        let heard = hear(&mut client).await;
        assert!(heard.end.is_ok() && heard.bytes.ends_with(b"hello"), "{heard:?}");
    }
}

/// A 413 in the middle of an upload: what is not read must not destroy it.
#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    let refuses = answers(async |_| {
        let mut response = Response::new(whole("too large"));
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        response
    });
    let door = door(DoorTerms::default(), refuses);
    let mut client = connect(door.addr()).await;
    say(&mut client, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 900000\r\n\r\n").await;
    soon("an upload", client.write_all(&[7; 900_000])).await.unwrap();
    client.shutdown().await.unwrap();
    let heard = hear(&mut client).await;
    assert!(heard.end.is_ok() && heard.bytes.ends_with(b"too large"), "{heard:?}");
}

/// Nobody has to read a film to the end that nobody wants.
#[tokio::test]
async fn an_upload_that_goes_on_and_on_after_its_answer_is_cut_off() {
    let door = door(DoorTerms::default(), greets());
    let mut client = connect(door.addr()).await;
    say(&mut client, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 999999999\r\n\r\n").await;
    let endless = async { while client.write_all(&[7; 64 * 1024]).await.is_ok() {} };
    soon("an end of it", endless).await;
}

/// A client that has gone: nobody goes on working for it.
#[tokio::test]
async fn a_client_that_resets_while_its_answer_is_awaited_is_missed() {
    let (begun, is_begun) = oneshot::channel::<()>();
    let (held, dropped) = oneshot::channel::<Infallible>();
    let held = Arc::new(Mutex::new(Some((begun, held))));
    let never = answers(move |_| {
        let held = held.lock().unwrap().take();
        async move {
            let (begun, _held) = held.expect("one request");
            begun.send(()).unwrap();
            std::future::pending().await
        }
    });
    let door = door(DoorTerms::default(), never);
    let mut client = connect(door.addr()).await;
    say(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    soon("a request", is_begun).await.unwrap();
    abort(client).await;
    assert!(soon("its end", dropped).await.is_err());
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_reset_in_the_end() {
    let door = door(
        DoorTerms { unread: Duration::from_millis(50), ..DoorTerms::default() },
        // More than all buffers on the way can hold.
        answers(async |_| Response::new(whole(vec![7; 32 << 20]))),
    );
    let mut client = connect(door.addr()).await;
    say(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let reset = soon("a reset", client.ready(Interest::ERROR)).await.unwrap();
    assert!(reset.is_error(), "{reset:?}");
}

/// `printf 'GET …' | nc`.
#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answer() {
    let late = answers(async |request| {
        // As long as it takes: what it reads until then is an end.
        let _ = request.into_body().collect().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        Response::new(whole("hello"))
    });
    let door = door(DoorTerms::default(), late);
    let mut client = connect(door.addr()).await;
    say_all(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    let heard = hear(&mut client).await;
    assert!(heard.end.is_ok() && heard.bytes.ends_with(b"hello"), "{heard:?}");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_told_so() {
    let door = door(DoorTerms::default(), greets());
    let mut client = connect(door.addr()).await;
    say_all(&mut client, &[b"GET /".as_slice(), &[b'x'; 40 * 1024]].concat()).await;
    let mut heard = Vec::new();
    soon("an answer", client.read_to_end(&mut heard)).await.unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&heard));
}
