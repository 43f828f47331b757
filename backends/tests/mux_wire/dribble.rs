//! Single bytes, each in a frame of its own, for an agent that does not read them: each takes as much memory as a hundred. No
//! library holds as many as windows admit, and any client can send them. Here the agent is ours, and the server is made by hand.

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tunnel_api::tls::ClientTls;
use tunnel_backends::{
    carrier::{Incoming, Offer, dialler_for},
    relay::BoxDuplex,
    testing::{client::hear_exactly, keep, soon},
};

use crate::mux::Mux;

#[test]
fn an_agent_that_does_not_read_what_dribbles_goes_on_serving_others() {
    keep(&Mux::default(), async |_| {
        let (mut server, mut agent) = session().await;
        let mut unread = Vec::new();
        let mut dribbling = JoinSet::new();
        for _ in 0..2 {
            let (_, mut send) = open(&mut server);
            unread.push(accept(&mut *agent).await);
            dribbling.spawn(async move {
                for _ in 0..DRIBBLE {
                    say(&mut send, b".").await;
                }
                send
            });
        }
        let _sends = soon("all to be taken", dribbling.join_all()).await;

        let (_answer, mut send) = open(&mut server);
        let mut other = accept(&mut *agent).await;
        say(&mut send, b"and me?").await;
        assert_eq!(hear_exactly(&mut other, 7).await, b"and me?");
        for stream in &mut unread {
            assert_eq!(hear_exactly(stream, DRIBBLE).await, vec![b'.'; DRIBBLE]);
        }
    });
}

/// Less than a window, and twice as much is more than the `h2` crate puts up with unless it is told to.
const DRIBBLE: usize = 200_000;

/// A server, and an agent of ours that has dialled it.
async fn session() -> (SendRequest<Bytes>, Box<dyn Incoming>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let uri = format!("ptth://id:ticket@{addr}/.well-known/ptth/id/").parse().expect("a tunnel URI");
    let serving = tokio::spawn(async move { upgrade(listener.accept().await.expect("an agent").0).await });
    let dialler = dialler_for(&uri, &ClientTls::default()).expect("a dialler");
    let agent = soon("a session", dialler.dial(&uri)).await.expect("a session");
    (serving.await.expect("a server"), agent)
}

async fn upgrade(mut socket: TcpStream) -> SendRequest<Bytes> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a request"));
    }
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ptth\r\nalpn: h2\r\n\r\n";
    socket.write_all(answer).await.expect("an agent that listens");
    let (server, connection) = h2::client::handshake(socket).await.expect("a handshake");
    tokio::spawn(connection);
    server
}

fn open(server: &mut SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("127.0.0.1:1")
        .header("forwarded", "for=\"127.0.0.1:2\";by=\"127.0.0.1:1\"");
    server.send_request(request.body(()).expect("a request"), false).expect("a session that takes it")
}

async fn accept(agent: &mut dyn Incoming) -> BoxDuplex {
    let offer = soon("a client", agent.next()).await.expect("a session that goes on").expect("one more client");
    let Offer::Connection(offer) = offer else { panic!("a CONNECT is a connection") };
    offer.accept().expect("a client that is still there")
}

async fn say(send: &mut SendStream<Bytes>, bytes: &'static [u8]) {
    send.reserve_capacity(bytes.len());
    while send.capacity() < bytes.len() {
        let capacity = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        capacity.expect("a stream that goes on").expect("capacity");
    }
    send.send_data(Bytes::from_static(bytes), false).expect("a stream that goes on");
}
