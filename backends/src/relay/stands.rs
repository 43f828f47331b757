//! How a socket stands at this moment, of which tokio may not have heard yet.

use std::{io, os::fd::AsFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is so of what is asked; where a connection is over or broken, that is said unasked.
pub(super) fn stands(socket: &impl AsFd, asked: PollFlags) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(socket, asked)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once))?;
    Ok(fds[0].revents())
}
