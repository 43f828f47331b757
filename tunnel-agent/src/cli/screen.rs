use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use terminal_size::{Width, terminal_size_of};
use tracing_subscriber::fmt::MakeWriter;

/// stderr, for people: lines of text, and in a terminal a last line that is drawn anew. A clone is the same screen. Nobody
/// hears of a failure to write here: there is no place left to tell it.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    is_live: bool,
    has_colours: bool,
    /// The status line as it stands; empty when there is none.
    drawn: Arc<Mutex<String>>,
}

impl Screen {
    pub(crate) fn stderr() -> Self {
        let is_live = io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let has_colours = is_live && env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        Self { is_live, has_colours, drawn: Arc::default() }
    }

    /// Whether a line can be drawn anew.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    pub(crate) fn has_colours(&self) -> bool {
        self.has_colours
    }

    /// How many characters fit a line.
    pub(crate) fn width(&self) -> usize {
        terminal_size_of(io::stderr()).map_or(80, |(Width(width), _)| width.into())
    }

    /// A line of text, above the status.
    pub(crate) fn say(&self, text: &str) {
        self.write_above(format!("{text}\n").as_bytes());
    }

    /// The status from now on; empty for none. One line, which must fit.
    pub(crate) fn show(&self, status: &str) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_live && *drawn != status {
            let _ = io::stderr().write_all(format!("{CLEAR}{status}").as_bytes());
            status.clone_into(&mut drawn);
        }
    }

    /// In one write, so that a line of text and the status are never mixed.
    fn write_above(&self, text: &[u8]) {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = if drawn.is_empty() {
            io::stderr().write_all(text)
        } else {
            io::stderr().write_all(&[CLEAR.as_bytes(), text, drawn.as_bytes()].concat())
        };
    }
}

/// For the log, which writes whole lines.
impl MakeWriter<'_> for Screen {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Screen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.write_above(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// To the line's beginning, and nothing left of what it was.
const CLEAR: &str = "\r\x1b[K";
