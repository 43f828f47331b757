//! The request by which an agent comes in, and the answer to it.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tunnel_api::{OpenedTunnel, TunnelUri};
use tunnel_backends::testing::soon;

use crate::mux::door;

/// A request for the upgrade, right in everything that is not changed.
#[derive(Debug, Clone)]
pub(crate) struct Knock {
    line: [String; 3],
    headers: Vec<(&'static str, String)>,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head, but for the date.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Knock {
    pub(crate) fn at(uri: &TunnelUri) -> Self {
        let (id, ticket) = uri.credentials().expect("a URI with credentials");
        let knock = Self {
            line: ["GET", uri.target(), "HTTP/1.1"].map(str::to_owned),
            headers: vec![
                ("host", "tunnels.example".to_owned()),
                ("connection", "upgrade".to_owned()),
                ("upgrade", "ptth".to_owned()),
                ("alpn", "h2".to_owned()),
            ],
        };
        knock.for_agent_of(id, ticket)
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.line[0] = method.to_owned();
        self
    }

    pub(crate) fn target(mut self, target: &str) -> Self {
        self.line[1] = target.to_owned();
        self
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        self.line[2] = version.to_owned();
        self
    }

    /// After the target's `?`.
    pub(crate) fn query(mut self, query: &str) -> Self {
        let _ = write!(self.line[1], "?{query}");
        self
    }

    pub(crate) fn with(self, name: &'static str, value: &str) -> Self {
        let mut knock = self.without(name);
        knock.headers.push((name, value.to_owned()));
        knock
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self
    }

    /// What is asked in this header.
    pub(crate) fn header(&self, name: &str) -> &str {
        let (_, value) = self.headers.iter().find(|(other, _)| *other == name).expect("a header");
        value
    }

    /// With these credentials.
    pub(crate) fn for_agent_of(self, id: &str, ticket: &str) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{id}:{ticket}"));
        self.with("authorization", &format!("Basic {credentials}"))
    }

    fn text(&self) -> String {
        let mut text = self.line.join(" ") + "\r\n";
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text + "\r\n"
    }

    /// Asks at the door of this tunnel, on a connection of its own.
    pub(crate) async fn ask(&self, tunnel: &OpenedTunnel) -> (Answer, TcpStream) {
        let mut socket = connect(tunnel).await;
        let answer = self.ask_on(&mut socket).await;
        (answer, socket)
    }

    pub(crate) async fn ask_on(&self, socket: &mut TcpStream) -> Answer {
        self.ask_saying(socket, &[]).await
    }

    async fn ask_saying(&self, socket: &mut TcpStream, more: &[u8]) -> Answer {
        let bytes = [self.text().as_bytes(), more].concat();
        soon("a request to be taken", socket.write_all(&bytes)).await.expect("a door that listens");
        soon(format!("an answer to {self:?}"), read_answer(socket)).await
    }

    /// Asks, and is let in.
    pub(crate) async fn enter(&self, tunnel: &OpenedTunnel) -> TcpStream {
        self.enter_saying(tunnel, &[]).await
    }

    /// Asks and goes on without waiting for the answer, and is let in.
    pub(crate) async fn enter_saying(&self, tunnel: &OpenedTunnel, more: &[u8]) -> TcpStream {
        let mut socket = connect(tunnel).await;
        let answer = self.ask_saying(&mut socket, more).await;
        assert_eq!(answer.status, 101, "{self:?}: {answer:?}");
        socket
    }
}

impl Answer {
    /// What the server says in this header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

async fn connect(tunnel: &OpenedTunnel) -> TcpStream {
    let socket = soon("the door", TcpStream::connect(door(tunnel))).await.expect("a door");
    socket.set_nodelay(true).expect("a socket's option");
    socket
}

/// Not a byte more than the answer is read: HTTP/2 begins right after a 101.
async fn read_answer(socket: &mut TcpStream) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap_or_else(|error| panic!("{error} after {head:?}")));
    }
    let head = String::from_utf8(head).expect("a head of text");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let kept = head.lines().filter(|line| !line.starts_with("date: ")).map(|line| format!("{line}\n"));
    let mut answer = Answer { status, head: kept.collect(), body: String::new() };
    let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.expect("a whole body");
    answer.body = String::from_utf8(body).expect("a body of text");
    answer
}
