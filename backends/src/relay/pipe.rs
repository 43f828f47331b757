//! Bytes on their way between two sockets that never leave the kernel: `splice` moves them from one into a pipe and from there
//! into the other.
//!
//! A pipe costs two descriptors, and an ordinary user has 64 MiB of them in all, after which the kernel gives ones that hold
//! 8 KiB. So streams have one only while they move much, from a pool whose budget is below that; where there is none, bytes are
//! copied, which is the same and slower.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// A pipe, and what is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
}

impl Pipe {
    /// An empty one, if there is one to be had.
    pub(super) fn take() -> Option<Self> {
        let mut pool = pool();
        if let Some(ends) = pool.idle.pop() {
            return Some(Self { ends: Some(ends), held: 0 });
        }
        if pool.made >= MOST {
            return None;
        }
        // No descriptors left, perhaps: that is somebody else's trouble, not this stream's.
        let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        pool.made += 1;
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// How many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what a socket has into the pipe, which is empty: a full one would be told from an empty socket by nothing.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "it is filled only when it is empty");
        let Some((_, end)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        self.held = splice(socket, None, end, None, PIECE, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        Ok(self.held)
    }

    /// Moves what is in the pipe into a socket.
    pub(super) fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some((end, _)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let moved = splice(end, None, socket, None, self.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held -= moved;
        Ok(moved)
    }
}

/// An empty one is for the next stream; one in which something is left goes with it.
impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        let mut pool = pool();
        if self.held == 0 && pool.idle.len() < IDLE {
            pool.idle.push(ends);
        } else {
            pool.made -= 1;
        }
    }
}

/// The limit is the user's, so the pool is the process's.
struct Pool {
    idle: Vec<(OwnedFd, OwnedFd)>,
    made: usize,
}

fn pool() -> MutexGuard<'static, Pool> {
    static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), made: 0 });
    // Nothing panics while it is held.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pipes at once. Each counts as 64 KiB of the 64 MiB that a user has, and others of the user's may want some.
const MOST: usize = 640;

/// Empty pipes that are kept: as many streams as are between two pieces at the same moment, which are few.
const IDLE: usize = 32;

/// Moved at once, in bytes: more would keep others waiting, and a pipe of 16 places holds about so much.
const PIECE: usize = 256 * 1024;
