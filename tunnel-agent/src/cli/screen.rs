use std::{
    env,
    ffi::OsStr,
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
    is_quiet: bool,
    has_colours: bool,
    /// The status line as it stands; empty when there is none.
    drawn: Arc<Mutex<String>>,
}

impl Screen {
    pub(crate) fn stderr() -> Self {
        Self::of(io::stderr().is_terminal(), env::var_os("TERM").as_deref(), env::var_os("NO_COLOR").as_deref())
    }

    /// Whether what is printed to stdout may have colours.
    pub(crate) fn stdout_has_colours() -> bool {
        Self::of(io::stdout().is_terminal(), env::var_os("TERM").as_deref(), env::var_os("NO_COLOR").as_deref())
            .has_colours
    }

    /// As no-color.org has it, an empty NO_COLOR is none.
    fn of(is_terminal: bool, term: Option<&OsStr>, no_colour: Option<&OsStr>) -> Self {
        let is_live = is_terminal && term.is_none_or(|term| term != "dumb");
        let has_colours = is_live && no_colour.is_none_or(OsStr::is_empty);
        Self { is_live, is_quiet: false, has_colours, drawn: Arc::default() }
    }

    /// With nothing on it but warnings and errors.
    pub(crate) fn quiet(self, is_quiet: bool) -> Self {
        Self { is_quiet, ..self }
    }

    /// Whether there is a line that is drawn anew.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live && self.has_notes()
    }

    /// Whether what is good to know is shown.
    pub(crate) fn has_notes(&self) -> bool {
        !self.is_quiet
    }

    pub(crate) fn has_colours(&self) -> bool {
        self.has_colours
    }

    /// How many characters fit a line.
    pub(crate) fn width(&self) -> usize {
        terminal_size_of(io::stderr()).map_or(80, |(Width(width), _)| width.into())
    }

    /// What is good to know.
    pub(crate) fn note(&self, text: &str) {
        if self.has_notes() {
            self.say(text);
        }
    }

    /// What must be known: a line of text, above the status.
    pub(crate) fn say(&self, text: &str) {
        self.write_above(format!("{text}\n").as_bytes());
    }

    /// The status from now on; empty for none. One line, which must fit.
    pub(crate) fn show(&self, status: &str) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_live() && *drawn != status {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_can_and_may_is_drawn_on_in_colour() {
        let screen = |is_terminal, term: &str, no_colour: Option<&str>| {
            let screen = Screen::of(is_terminal, Some(term.as_ref()), no_colour.map(OsStr::new));
            (screen.is_live(), screen.has_colours())
        };
        assert_eq!(screen(true, "xterm", None), (true, true));
        assert_eq!(screen(true, "xterm", Some("")), (true, true));
        assert_eq!(screen(true, "xterm", Some("1")), (true, false));
        assert_eq!(screen(true, "dumb", None), (false, false));
        assert_eq!(screen(false, "xterm", None), (false, false));
    }
}
