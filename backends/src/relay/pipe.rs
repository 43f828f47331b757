//! Bytes on their way between two sockets that never leave the kernel: `splice` moves them from one into a pipe and from there
//! into the other.
//!
//! The larger a pipe, the less often server and agent are on the way to the kernel: each of its places holds a piece of a packet, often a
//! page. But a pipe costs two descriptors, and an ordinary user has 16,384 places in all, after which the kernel gives pipes that
//! hold 8 KiB. So streams have one only while they move much, from a pool whose budget is below half of that (server and agent may be the
//! same user's): some large ones, then ordinary ones; where there is none, bytes are copied, which is the same and slower.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::{
    event::PollFlags,
    pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice},
};
use socket2::SockRef;

use super::stands::stands;

/// A pipe, and what is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Until it is dropped.
    ends: Option<Ends>,
    held: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    size: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Large,
    Ordinary,
}

impl Pipe {
    /// An empty one, if there is one to be had.
    pub(super) fn take() -> Option<Self> {
        let ends = pool().take()?;
        IN_USE.fetch_add(1, Ordering::Relaxed);
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// How many there are in use, in the whole process.
    pub(super) fn in_use() -> usize {
        IN_USE.load(Ordering::Relaxed)
    }

    /// How many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what a socket has into the pipe, which is empty: a full one would be told from an empty socket by nothing.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "it is filled only when it is empty");
        let Some(Ends { write, .. }) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        self.held = splice(socket, None, write, None, PIECE, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        Ok(self.held)
    }

    /// Moves what is in the pipe into a socket.
    ///
    /// The kernel writes a few pieces at a time, and where it fails after the first of them it says how much it has moved and no more:
    /// whether the peer has aborted or had finished is lost then, and the next write's failure looks like the latter. So it is asked
    /// beforehand whether the peer has finished, and afterwards whether the connection is over.
    pub(super) fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(Ends { read, .. }) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let has_finished = stands(&socket, PollFlags::RDHUP)?.contains(PollFlags::RDHUP);
        let moved = splice(read, None, &socket, None, self.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held -= moved;
        if self.held > 0 && stands(&socket, PollFlags::empty())?.contains(PollFlags::HUP) {
            // Something was moved, so that it was not over before.
            let kept = if has_finished { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
            return Err(SockRef::from(&socket).take_error()?.unwrap_or_else(|| kept.into()));
        }
        Ok(moved)
    }
}

/// An empty one is for the next stream; one in which something is left goes with it.
impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            pool().give_back(ends, self.held == 0);
            IN_USE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// The limit is the user's, so the pool is the process's.
struct Pool {
    large: Stock,
    ordinary: Stock,
    /// Fewer once the user's places have been found used up.
    most_large: usize,
}

/// Pipes of one size.
struct Stock {
    idle: Vec<Ends>,
    made: usize,
}

impl Stock {
    const EMPTY: Self = Self { idle: Vec::new(), made: 0 };
}

impl Pool {
    fn take(&mut self) -> Option<Ends> {
        if let Some(ends) = self.large.idle.pop() {
            return Some(ends);
        }
        let wanted = if self.large.made < self.most_large { Size::Large } else { Size::Ordinary };
        if wanted == Size::Ordinary {
            if let Some(ends) = self.ordinary.idle.pop() {
                return Some(ends);
            }
            if self.ordinary.made >= MOST_ORDINARY {
                return None;
            }
        }
        let ends = make(wanted)?;
        if ends.size != wanted {
            self.most_large = self.large.made;
        }
        self.stock(ends.size).made += 1;
        Some(ends)
    }

    fn give_back(&mut self, ends: Ends, is_empty: bool) {
        let stock = self.stock(ends.size);
        if is_empty && stock.idle.len() < IDLE {
            stock.idle.push(ends);
        } else {
            stock.made -= 1;
        }
    }

    fn stock(&mut self, size: Size) -> &mut Stock {
        match size {
            Size::Large => &mut self.large,
            Size::Ordinary => &mut self.ordinary,
        }
    }
}

/// None where there are no descriptors left, or the user's places are used up: that is somebody else's trouble, not this stream's.
fn make(wanted: Size) -> Option<Ends> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    let is_large = wanted == Size::Large && fcntl_setpipe_size(&write, PIECE).is_ok();
    if !is_large && fcntl_getpipe_size(&write).ok()? < LEAST {
        return None;
    }
    Some(Ends { read, write, size: if is_large { Size::Large } else { Size::Ordinary } })
}

fn pool() -> MutexGuard<'static, Pool> {
    static POOL: Mutex<Pool> = Mutex::new(Pool { large: Stock::EMPTY, ordinary: Stock::EMPTY, most_large: MOST_LARGE });
    // Nothing panics while it is held.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A large pipe, and what is moved at once, in bytes. Twice as much brings a few percent, and others wait longer.
const PIECE: usize = 512 * 1024;

/// With 128 places each, of the 16,384 that a user has.
const MOST_LARGE: usize = 48;

/// With 16 places each.
const MOST_ORDINARY: usize = 96;

/// Less than an ordinary pipe is worth no system call.
const LEAST: usize = 64 * 1024;

/// Empty pipes that are kept, of each size: as many streams as are between two pieces at the same moment, which are few.
const IDLE: usize = 32;
