//! An agent that says and hears single frames (RFC 9113, 4.1): for what no library would say, and for saying it then.

use std::{collections::VecDeque, fmt, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tunnel_api::OpenedTunnel;
use tunnel_backends::{
    sockets,
    testing::{Heard, hear, soon},
};

use crate::knock::Knock;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    /// An answer without a body, as a block of HPACK: `:status` as a literal that is not indexed (RFC 7541, 6.2.2).
    pub(crate) fn answer(stream: u32, status: u16, flags: u8) -> Self {
        let block = [&[0x08, 3][..], status.to_string().as_bytes()].concat();
        Self::new(HEADERS, END_HEADERS | flags, stream, &block)
    }

    /// The client is taken.
    pub(crate) fn taken(stream: u32) -> Self {
        Self::answer(stream, 200, 0)
    }

    /// It is not.
    pub(crate) fn declined(stream: u32, status: u16) -> Self {
        Self::answer(stream, status, END_STREAM)
    }

    pub(crate) fn data(stream: u32, bytes: &[u8]) -> Self {
        Self::new(DATA, 0, stream, bytes)
    }

    pub(crate) fn last_data(stream: u32, bytes: &[u8]) -> Self {
        Self::new(DATA, END_STREAM, stream, bytes)
    }

    pub(crate) fn reset(stream: u32, code: u32) -> Self {
        Self::new(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    pub(crate) fn goodbye(last: u32, code: u32) -> Self {
        Self::new(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    pub(crate) fn window_update(stream: u32, more: u32) -> Self {
        Self::new(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
    }

    pub(crate) fn settings(settings: &[(u16, u32)]) -> Self {
        let payload = settings.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat());
        Self::new(SETTINGS, 0, 0, &payload.collect::<Vec<_>>())
    }

    pub(crate) fn is_last(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a short payload").to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.payload[..self.payload.len().min(16)];
        let Self { kind, flags, stream, payload } = self;
        write!(f, "frame {kind} flags {flags} stream {stream}, {} bytes {first:02x?}", payload.len())
    }
}

/// An agent. It acknowledges settings and answers pings while it is listened to, and does nothing else by itself.
pub(crate) struct Frames {
    socket: BufReader<TcpStream>,
    /// Heard while something else was waited for.
    kept: VecDeque<Frame>,
    /// The window of each stream, as the server has told it last.
    pub(crate) window: u32,
}

impl Frames {
    /// Comes in and is a session.
    pub(crate) async fn dial(tunnel: &OpenedTunnel) -> Self {
        Self::dial_with(tunnel, &Knock::at(&tunnel.uri), &[]).await
    }

    pub(crate) async fn dial_with(tunnel: &OpenedTunnel, knock: &Knock, settings: &[(u16, u32)]) -> Self {
        let mut agent = Self::begin(knock.enter(tunnel).await).await;
        agent.say(&Frame::settings(settings)).await;
        // So that the connection's window holds up no stream.
        agent.say(&Frame::window_update(0, 1 << 30)).await;
        agent.until_pinged().await;
        agent
    }

    /// Says all that a session begins with in one go with its request, and only then listens.
    pub(crate) async fn dial_without_waiting(tunnel: &OpenedTunnel) -> Self {
        let first = [Frame::settings(&[]), Frame::window_update(0, 1 << 30)].map(|frame| frame.bytes()).concat();
        let mut agent = Self::begin(Knock::at(&tunnel.uri).enter_saying(tunnel, &first).await).await;
        agent.until_pinged().await;
        agent
    }

    /// Hears the server's preface, and says nothing.
    pub(crate) async fn begin(socket: TcpStream) -> Self {
        let mut socket = BufReader::new(socket);
        let mut preface = [0; PREFACE.len()];
        soon("the preface", socket.read_exact(&mut preface)).await.expect("a server that begins");
        assert_eq!(preface, *PREFACE);
        Self { socket, kept: VecDeque::new(), window: 65_535 }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.socket.get_ref().local_addr().expect("a socket's address")
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        self.try_say(frame).await.unwrap_or_else(|error| panic!("{error} when {frame:?} was said"));
    }

    /// Says it to a server that may be gone.
    pub(crate) async fn try_say(&mut self, frame: &Frame) -> std::io::Result<()> {
        soon(format!("{frame:?} to be taken"), self.socket.write_all(&frame.bytes())).await
    }

    /// The next frame of any kind; nothing if the server has hung up.
    pub(crate) async fn any(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        soon("a frame", self.socket.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        soon("the rest of a frame", self.socket.read_exact(&mut payload)).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame that is about a stream, or a goodbye; nothing if the server has hung up.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        loop {
            let frame = self.any().await?;
            if !self.oblige(&frame).await {
                return Some(frame);
            }
        }
    }

    /// Does what a peer must, if it is that.
    async fn oblige(&mut self, frame: &Frame) -> bool {
        let is_ack = frame.flags & ACK != 0;
        let answer = match frame.kind {
            SETTINGS if !is_ack => {
                let mut settings = frame.payload.chunks_exact(6);
                if let Some(window) = settings.find(|setting| setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes()) {
                    self.window = u32::from_be_bytes([window[2], window[3], window[4], window[5]]);
                }
                Frame::new(SETTINGS, ACK, 0, &[])
            }
            PING if !is_ack => Frame::new(PING, ACK, 0, &frame.payload),
            SETTINGS | PING | WINDOW_UPDATE => return true,
            _ => return false,
        };
        // Heard by nobody where the server has just hung up.
        let _ = self.try_say(&answer).await;
        true
    }

    /// Returns when the first ping has been answered: for the server, that makes it a session.
    async fn until_pinged(&mut self) {
        loop {
            let frame = self.any().await.expect("a ping");
            self.oblige(&frame).await;
            if frame.kind == PING {
                return;
            }
        }
    }

    /// The stream of the next client.
    pub(crate) async fn client(&mut self) -> u32 {
        self.pick("a client", |frame| frame.kind == HEADERS).await.stream
    }

    /// The next frame that is wanted; the others are kept.
    pub(crate) async fn pick(&mut self, what: &str, mut wanted: impl FnMut(&Frame) -> bool) -> Frame {
        if let Some(index) = self.kept.iter().position(&mut wanted) {
            return self.kept.remove(index).expect("a frame that was found");
        }
        loop {
            let Some(frame) = self.any().await else { panic!("{what} was to come, but the server hung up") };
            if self.oblige(&frame).await {
                continue;
            }
            if wanted(&frame) {
                return frame;
            }
            self.kept.push_back(frame);
        }
    }

    /// Hears exactly so many bytes of a client.
    pub(crate) async fn hear_exactly(&mut self, stream: u32, length: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < length {
            let frame = self.pick("a client's bytes", |frame| frame.stream == stream).await;
            assert_eq!(frame.kind, DATA, "after {} bytes: {frame:?}", heard.len());
            heard.extend(frame.payload);
        }
        assert_eq!(heard.len(), length);
        heard
    }

    /// Hears a client to its end.
    pub(crate) async fn hear(&mut self, stream: u32) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            let frame = self.pick("a client's bytes", |frame| frame.stream == stream).await;
            assert_eq!(frame.kind, DATA, "after {} bytes: {frame:?}", heard.len());
            heard.extend_from_slice(&frame.payload);
            if frame.is_last() {
                return heard;
            }
        }
    }

    /// Returns when the server has reset this stream, with its code; what came before is dropped.
    pub(crate) async fn until_reset(&mut self, stream: u32) -> u32 {
        let frame = self.pick("a reset", |frame| (frame.stream, frame.kind) == (stream, RST_STREAM)).await;
        u32::from_be_bytes(frame.payload.try_into().expect("a code"))
    }

    /// Takes a client, says something to it, and finishes.
    pub(crate) async fn serve(&mut self, stream: u32, client: &mut TcpStream) {
        self.say(&Frame::taken(stream)).await;
        self.say(&Frame::last_data(stream, b"served")).await;
        assert_eq!(hear(client).await, Heard::finished_after(b"served"));
    }

    /// Says nothing more, as a process that ended.
    pub(crate) async fn hang_up(&mut self) {
        soon("an end to be taken", self.socket.shutdown()).await.expect("a server that is there");
    }

    /// Is gone, as a host that was cut off.
    pub(crate) fn reset(self) {
        sockets::reset(self.socket.into_inner());
    }

    /// All that still comes until the server hangs up.
    pub(crate) async fn rest(&mut self) -> Vec<Frame> {
        let mut rest = Vec::new();
        while let Some(frame) = self.next().await {
            rest.push(frame);
        }
        rest
    }
}

pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Of the server's, in a session.
pub(crate) const FIRST_STREAM: u32 = 1;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
