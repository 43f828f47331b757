use std::{
    io::{self, ErrorKind},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BufMut;
use tokio::time::{Sleep, sleep};
#[cfg(target_os = "linux")]
use tokio::{io::Interest, net::TcpStream};
use tokio_util::io::poll_read_buf;

use super::{
    Duplex,
    buffer::{self, BUFFER},
    pace::{Bucket, Queue, Turn},
    room::Limits,
};
#[cfg(target_os = "linux")]
use super::{pipe::Pipe, turn::BulkTurn};

/// One direction of a relay: what is copied, how far it is, and what is held in between.
pub(super) struct Flow<'a> {
    pub(super) state: FlowState,
    held: Vec<u8>,
    written: usize,
    /// What is on its way inside the kernel instead.
    #[cfg(target_os = "linux")]
    pipe: Option<Pipe>,
    #[cfg(target_os = "linux")]
    turn: BulkTurn,
    /// The last read filled its buffer.
    is_bulk: bool,
    limits: Limits,
    moved: &'a AtomicU64,
    queue: Queue<&'a [Arc<Bucket>]>,
    waste: Waste,
}

/// What is read and thrown away. Whoever is in the middle of saying something gets to its end and hears then what it was told; but
/// one that talks on and on must not keep both of us busy for as long as it is heard. Nor must it be heard for long when it has been told
/// all: what it says fills the kernel's buffers all the way here, and of those there are so many for the whole machine.
struct Waste {
    bytes: usize,
    /// Of them, as fast as they come.
    freely: usize,
    pause: Option<Pin<Box<Sleep>>>,
    /// Pauses that are left, where nothing more is to be told.
    pauses_left: Option<usize>,
}

impl Default for Waste {
    fn default() -> Self {
        Self { bytes: 0, freely: REST_OF_AN_UPLOAD, pause: None, pauses_left: None }
    }
}

impl Waste {
    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.freely {
            self.pause = Some(Box::pin(sleep(WASTE_PAUSE)));
            self.pauses_left = self.pauses_left.map(|left| left.saturating_sub(1));
        }
    }

    /// More of it than anybody says who would listen.
    fn is_enough(&self) -> bool {
        self.pauses_left == Some(0)
    }

    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowState {
    /// Bytes are read from the source and written to the sink.
    Copying,
    /// The source has finished; what is held still goes out, then the sink is told.
    Finishing,
    /// The sink takes no more; what the source sends is read and thrown away, until it finishes.
    Discarding,
    /// Nothing more will happen in this direction.
    Ended,
}

/// What broke, seen from a flow.
pub(super) enum Broken {
    /// The source aborted.
    Source,
    /// The sink takes no more, and this is how it said so.
    Sink(ErrorKind),
}

impl<'a> Flow<'a> {
    pub(super) fn new(moved: &'a AtomicU64, buckets: &'a [Arc<Bucket>]) -> Self {
        Self {
            state: FlowState::Copying,
            held: Vec::new(),
            written: 0,
            #[cfg(target_os = "linux")]
            pipe: None,
            #[cfg(target_os = "linux")]
            turn: BulkTurn::default(),
            is_bulk: false,
            limits: Limits::default(),
            moved,
            queue: Queue::new(buckets),
            waste: Waste::default(),
        }
    }

    /// Drives the direction until it ends, breaks or can go no further now.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Duplex,
        sink: &mut dyn Duplex,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.holds_bytes() {
                ready!(self.poll_write(cx, sink)).map_err(|error| Broken::Sink(error.kind()))?;
                continue;
            }
            match self.state {
                FlowState::Copying | FlowState::Discarding => {
                    ready!(self.poll_fill(cx, source, sink)).map_err(|_| Broken::Source)?;
                }
                FlowState::Finishing => {
                    // A sink that cannot be told has aborted, and its own direction will say so.
                    let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                    self.state = FlowState::Ended;
                }
                FlowState::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes what the source still has to say and writes it, until the source has no more or is broken.
    pub(super) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Duplex,
        sink: &mut dyn Duplex,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.holds_bytes() {
                ready!(self.poll_write(cx, sink))?;
            } else if self.state == FlowState::Copying {
                ready!(self.poll_fill(cx, source, sink))?;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// From now on nothing is written to the sink.
    pub(super) fn discard(&mut self) {
        self.release();
        self.state = match self.state {
            FlowState::Copying | FlowState::Discarding => FlowState::Discarding,
            FlowState::Finishing | FlowState::Ended => FlowState::Ended,
        };
    }

    /// Whether the source has said all it had to say.
    pub(super) fn source_finished(&self) -> bool {
        matches!(self.state, FlowState::Finishing | FlowState::Ended)
    }

    pub(super) fn holds_bytes(&self) -> bool {
        self.written < self.held.len() || self.holds_in_kernel()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether it could read if the pace let it.
    pub(super) fn waits_its_turn(&self) -> bool {
        self.queue.is_waiting()
    }

    /// It is not going to be polled now.
    pub(super) fn leave_queue(&mut self) {
        self.queue.leave();
    }

    /// The source has been told all. What it still says is heard out, within reason: so much as fast as it comes.
    pub(super) fn told_all(&mut self, freely: usize) {
        self.waste.freely = freely;
        self.waste.pauses_left = Some(LAST_PAUSES);
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, source: &mut dyn Duplex, sink: &dyn Duplex) -> Poll<io::Result<()>> {
        ready!(self.waste.poll_wanted(cx));
        if self.waste.is_enough() {
            self.release();
            self.state = FlowState::Ended;
            return Poll::Ready(Ok(()));
        }
        if !self.queue.is_paced() {
            self.queue.leave();
            self.limit(source, sink);
            #[cfg(target_os = "linux")]
            if let Some(spliced) = self.poll_splice(cx, source, sink) {
                return spliced;
            }
            return self.poll_read(cx, source, BUFFER).map_ok(|_| ());
        }
        let Poll::Ready(turn) = self.poll_turn(cx, source)? else {
            self.release();
            return Poll::Pending;
        };
        let read = self.poll_read(cx, source, turn.most());
        turn.pay(match &read {
            Poll::Ready(Ok(some)) => *some,
            _ => 0,
        });
        read.map_ok(|_| ())
    }

    /// As soon as it turns out that much is moving.
    fn limit(&mut self, source: &dyn Duplex, sink: &dyn Duplex) {
        if self.is_bulk && !self.limits.are_set() {
            self.limits.set(source.socket(), sink.socket(), others_move_much());
        }
    }

    /// Takes a turn where there is something to read, and keeps its place in the queue until then.
    fn poll_turn(&mut self, cx: &mut Context<'_>, source: &mut dyn Duplex) -> Poll<io::Result<Turn>> {
        if !self.queue.is_waiting() {
            ready!(source.poll_readable(cx))?;
        }
        self.queue.poll_turn(cx).map(Ok)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, source: &mut dyn Duplex, most: usize) -> Poll<io::Result<usize>> {
        // The buffer comes with the readiness and goes when it is over: an idle direction holds none.
        if self.held.capacity() == 0 {
            ready!(source.poll_readable(cx))?;
            self.held = buffer::take();
        }
        match poll_read_buf(Pin::new(source), cx, &mut (&mut self.held).limit(most)) {
            Poll::Ready(Ok(0)) => {
                self.release();
                self.state = match self.state {
                    FlowState::Copying => FlowState::Finishing,
                    _ => FlowState::Ended,
                };
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Ok(some)) => {
                self.is_bulk = some == BUFFER;
                if self.state == FlowState::Discarding {
                    self.held.clear();
                    self.waste.add(some);
                }
                Poll::Ready(Ok(some))
            }
            Poll::Ready(Err(error)) => {
                self.release();
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.release();
                Poll::Pending
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &mut dyn Duplex) -> Poll<io::Result<()>> {
        #[cfg(target_os = "linux")]
        if self.holds_in_kernel()
            && let (Some(pipe), Some(socket)) = (&mut self.pipe, sink.socket())
        {
            let moved = ready!(poll_drain(cx, pipe, socket))?;
            if moved == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.moved.fetch_add(moved as u64, Ordering::Relaxed);
            self.turn.add(moved);
            return Poll::Ready(Ok(()));
        }
        let written = ready!(Pin::new(&mut *sink).poll_write(cx, &self.held[self.written..]))?;
        if written == 0 {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
        self.written += written;
        self.moved.fetch_add(written as u64, Ordering::Relaxed);
        if !self.holds_bytes() {
            self.held.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn release(&mut self) {
        buffer::give_back(mem::take(&mut self.held));
        self.written = 0;
        #[cfg(target_os = "linux")]
        {
            self.pipe = None;
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn holds_in_kernel(&self) -> bool {
        false
    }
}

/// From socket to socket within the kernel.
#[cfg(target_os = "linux")]
impl Flow<'_> {
    fn holds_in_kernel(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Reads into a pipe where much is moving between two sockets, and there is a pipe to be had. Small pieces are copied: that
    /// takes one system call less, and few are worth a pipe.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &dyn Duplex,
        sink: &dyn Duplex,
    ) -> Option<Poll<io::Result<()>>> {
        if !self.is_bulk || self.state != FlowState::Copying {
            return None;
        }
        let (socket, _) = (source.socket()?, sink.socket()?);
        let pipe = match &mut self.pipe {
            Some(pipe) => pipe,
            None => {
                // It has been written, or nothing would be read.
                buffer::give_back(mem::take(&mut self.held));
                self.pipe.insert(Pipe::take()?)
            }
        };
        let filled = poll_fill(cx, pipe, socket);
        match &filled {
            Poll::Ready(Ok(0)) => self.state = FlowState::Finishing,
            Poll::Ready(Ok(some)) => self.is_bulk = *some >= WORTH_A_PIPE,
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        if !self.holds_in_kernel() {
            // Idle directions hold no pipe.
            self.release();
        }
        Some(filled.map_ok(|_| ()))
    }
}

#[cfg(target_os = "linux")]
fn poll_fill(cx: &mut Context<'_>, pipe: &mut Pipe, socket: &TcpStream) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        match socket.try_io(Interest::READABLE, || pipe.fill(socket)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            filled => return Poll::Ready(filled),
        }
    }
}

#[cfg(target_os = "linux")]
fn poll_drain(cx: &mut Context<'_>, pipe: &mut Pipe, socket: &TcpStream) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || pipe.drain(socket)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            drained => return Poll::Ready(drained),
        }
    }
}

/// Pipes are what shows it.
#[cfg(target_os = "linux")]
fn others_move_much() -> bool {
    Pipe::in_use() > FEW
}

#[cfg(not(target_os = "linux"))]
fn others_move_much() -> bool {
    true
}

/// Streams, who do not get in each other's way.
#[cfg(target_os = "linux")]
const FEW: usize = 2;

/// Thrown away as fast as it comes: the rest of an upload whose answer came early.
pub(super) const REST_OF_AN_UPLOAD: usize = 64 * 1024 * 1024;

/// Of a download that nobody wants any more there may be no end, and there may be many.
pub(super) const REST_OF_A_DOWNLOAD: usize = 24 * 1024 * 1024;

/// After each read beyond that: 6 MB/s.
const WASTE_PAUSE: Duration = Duration::from_millis(10);

/// A quarter of a second to listen in, for whoever has been told all.
const LAST_PAUSES: usize = 25;

/// A splice that moves less is followed by a copy.
#[cfg(target_os = "linux")]
const WORTH_A_PIPE: usize = 16 * 1024;
