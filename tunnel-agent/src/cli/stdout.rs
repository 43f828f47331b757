use std::io::{self, Write};

use super::failure::Failure;

/// Whether anybody hears us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reader {
    Listens,
    /// As in `tunnel list | head -1`.
    HasGone,
}

/// Writes all of it, now. (`println!` would panic on a full disk and on a pipe that nobody reads.)
pub(crate) fn print(text: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Listens),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::HasGone),
        Err(error) => Err(Failure::new(format!("cannot write to stdout: {error}"))),
    }
}
