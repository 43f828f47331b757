//! Lines on their way to somebody who may not take them. `tracing-appender` has such a queue, too; this one is bounded by bytes,
//! writes what has gathered at once, and tells how many lines are missing where they are missing.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written, by a thread that does nothing else. A clone is the same queue.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    room: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Some are on their way.
    is_writing: bool,
    /// Whoever writes has nothing to do, and is told of the next line.
    is_idle: bool,
    /// Somebody waits until all is written.
    flushing: u32,
    /// Lines lost that nobody has been told of.
    lost: u64,
}

impl Queue {
    /// Of at most `room` bytes, to be written there.
    pub(super) fn start(to: impl Write + Send + 'static, room: usize) -> io::Result<Self> {
        let inner = Inner { room, waiting: Mutex::default(), changed: Condvar::new(), lost: AtomicU64::new(0) };
        let queue = Self(Arc::new(inner));
        let writer = queue.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_out(to))?;
        Ok(queue)
    }

    /// How many lines were lost.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until all is written, but no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        let mut waiting = self.lock();
        waiting.flushing += 1;
        self.0.changed.notify_all();
        let waited = self.0.changed.wait_timeout_while(waiting, limit, is_busy);
        waited.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }

    /// A whole line, which is lost if there is no room.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > self.0.room {
            waiting.lost += 1;
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.add(waiting, line);
    }

    /// Few and short, and not to be lost to the others.
    pub(super) fn push_whatever_waits(&self, text: &[u8]) {
        self.add(self.lock(), text);
    }

    fn add(&self, mut waiting: MutexGuard<'_, Waiting>, line: &[u8]) {
        waiting.lines.extend_from_slice(line);
        let is_idle = mem::take(&mut waiting.is_idle);
        drop(waiting);
        if is_idle {
            self.0.changed.notify_all();
        }
    }

    /// For as long as the process lives.
    fn write_out(&self, mut to: impl Write) {
        let mut lines = Vec::new();
        let mut is_taken = true;
        loop {
            let lost = self.take(&mut lines, is_taken);
            if lost > 0 {
                // There is room for it now, behind what was before the gap.
                tracing::warn!(lines = lost, "lines of this log are missing here: it was not read in time");
            }
            is_taken = write_all(&mut to, &lines).is_ok();
            self.done(&lines, is_taken);
            lines.clear();
            lines.shrink_to(KEPT);
        }
    }

    /// Waits for lines, and a moment for more: waking somebody up for each would cost those who log more than the line. Takes all
    /// there are. If the ones before were taken, says also how many are missing behind these.
    fn take(&self, lines: &mut Vec<u8>, are_taken: bool) -> u64 {
        let wait_while = |waiting, is: fn(&mut Waiting) -> bool| {
            self.0.changed.wait_while(waiting, is).unwrap_or_else(PoisonError::into_inner)
        };
        let waiting = wait_while(self.lock(), |waiting| {
            waiting.is_idle = waiting.lines.is_empty();
            waiting.is_idle
        });
        let waited = self.0.changed.wait_timeout_while(waiting, GATHER, |waiting| waiting.flushing == 0);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        mem::swap(&mut waiting.lines, lines);
        waiting.is_writing = true;
        if are_taken { mem::take(&mut waiting.lost) } else { 0 }
    }

    fn done(&self, lines: &[u8], are_taken: bool) {
        let mut waiting = self.lock();
        waiting.is_writing = false;
        if !are_taken {
            let lost = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            waiting.lost += lost;
            self.0.lost.fetch_add(lost, Ordering::Relaxed);
        }
        drop(waiting);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Also to a terminal that another program has made non-blocking.
fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// An event is formatted whole, and written in one go.
impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// After a burst the memory is given back.
const KEPT: usize = 64 << 10;

/// Nobody reads a line this much later. A burst of so long has room.
const GATHER: Duration = Duration::from_millis(10);

const AGAIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes nothing until it is let.
    struct Reader {
        let_in: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_in.recv().map_err(io::Error::other)?;
            let _ = self.taken.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(room: usize) -> (Queue, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (open, let_in) = mpsc::channel();
        let (taken, takes) = mpsc::channel();
        (Queue::start(Reader { let_in, taken }, room).unwrap(), open, takes)
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn what_a_stuck_reader_has_no_room_for_is_lost_whole_and_counted() {
        let (queue, open, takes) = queue(10);
        queue.push(b"first\n");
        // It is on its way, or waits: either way these are one too many.
        for _ in 0..10 {
            queue.push(b"line\n");
        }
        let lost = queue.lost();
        assert!((8..=10).contains(&lost), "{lost}");
        for _ in 0..3 {
            open.send(()).unwrap();
        }
        queue.flush(LIMIT);
        let lines: Vec<u8> = takes.try_iter().flatten().collect();
        let expected = format!("first\n{}", "line\n".repeat(10 - lost as usize));
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
    }

    #[test]
    fn a_text_for_people_is_not_lost_to_lines() {
        let (queue, open, takes) = queue(10);
        queue.push(b"first one\n");
        queue.push(b"more\n");
        queue.push_whatever_waits(b"the reason for which it ends\n");
        (0..3).for_each(|_| open.send(()).unwrap());
        queue.flush(LIMIT);
        let lines: Vec<u8> = takes.try_iter().flatten().collect();
        assert!(lines.ends_with(b"the reason for which it ends\n"));
    }

    #[test]
    fn who_flushes_waits_for_what_is_on_its_way_but_not_for_ever() {
        let (queue, open, takes) = queue(100);
        queue.push(b"line\n");
        queue.flush(Duration::from_millis(1));
        assert!(takes.try_recv().is_err());
        open.send(()).unwrap();
        queue.flush(LIMIT);
        assert_eq!(takes.try_recv().unwrap(), b"line\n");
    }

    #[test]
    fn lines_for_a_reader_that_has_gone_are_lost_and_counted() {
        let (queue, open, _) = queue(100);
        drop(open);
        queue.push(b"1\n2\n");
        queue.flush(LIMIT);
        queue.push(b"3\n");
        queue.flush(LIMIT);
        assert_eq!(queue.lost(), 3);
    }
}
