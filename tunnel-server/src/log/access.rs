//! The access log as people read it: `GET blog.localhost /path 200 1.2 kB 3.4 ms 127.0.0.1:1234`.

use std::{
    fmt::{self, Debug, Write as _},
    ops::Range,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Text, in which requests are short lines and everything else is as it was.
pub(super) struct Readable<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Readable<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() != "access" {
            return self.0.format_event(context, to, event);
        }
        let mut request = Request { words: String::with_capacity(WORDS), ..Request::default() };
        event.record(&mut request);
        let (dim, green, plain) = if to.has_ansi_escapes() { (DIM, GREEN, PLAIN) } else { ("", "", "") };
        to.write_str(dim)?;
        SystemTime.format_time(&mut to)?;
        writeln!(to, "{plain} {green} INFO{plain} {dim}access:{plain} {request}")
    }
}

/// What is told of a request.
#[derive(Default)]
struct Request {
    /// All words of it, as they are to be written.
    words: String,
    tunnel: Word,
    client: Word,
    method: Word,
    host: Word,
    path: Word,
    end: Word,
    status: Option<u64>,
    to_agent: u64,
    to_client: u64,
    millis: f64,
}

/// Where one begins and ends.
type Word = Range<usize>;

impl Request {
    /// Whatever it is made of, it is one word on one line.
    fn escape(&mut self, text: &str) -> Word {
        let begin = self.words.len();
        if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.words.push_str(text);
        } else {
            text.chars().for_each(|c| push_escaped(&mut self.words, c));
        }
        begin..self.words.len()
    }

    fn write(&mut self, value: &dyn Debug) -> Word {
        let begin = self.words.len();
        // A string takes whatever is written.
        let _ = write!(self.words, "{value:?}");
        begin..self.words.len()
    }
}

impl Visit for Request {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "status" => self.status = Some(value),
            "bytes.to_agent" => self.to_agent = value,
            "bytes.to_client" => self.to_client = value,
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration_ms" {
            self.millis = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "method" => self.method = self.escape(value),
            "host" => self.host = self.escape(value),
            "path" => self.path = self.escape(value),
            "end" => self.end = self.escape(value),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "tunnel.id" => self.tunnel = self.write(value),
            "client.addr" => self.client = self.write(value),
            _ => {}
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |word: &Word| &self.words[word.clone()];
        for part in [&self.method, &self.host, &self.path] {
            f.write_str(word(part))?;
            f.write_char(' ')?;
        }
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_char('-')?,
        }
        let (answer, millis, client, tunnel) =
            (Size(self.to_client), self.millis, word(&self.client), word(&self.tunnel));
        write!(f, " {answer} {millis:.1} ms {client} tunnel.id={tunnel}")?;
        if self.to_agent > 0 {
            write!(f, " sent={}", Size(self.to_agent))?;
        }
        let end = word(&self.end);
        if end != "finished" {
            write!(f, " end={end}")?;
        }
        Ok(())
    }
}

/// `999 B`, `1.2 kB`, `34.0 MB`.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..1000 => write!(f, "{bytes} B"),
            bytes @ ..1_000_000 => write!(f, "{:.1} kB", bytes as f64 / 1e3),
            bytes @ ..1_000_000_000 => write!(f, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(f, "{:.1} GB", bytes as f64 / 1e9),
        }
    }
}

fn push_escaped(word: &mut String, c: char) {
    if c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    {
        word.extend(c.escape_unicode());
    } else {
        word.push(c);
    }
}

/// What a line's words take, nearly always.
const WORDS: usize = 256;

/// As `tracing` paints its lines.
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let text = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).map_event_format(Readable);
        tracing::subscriber::with_default(text.finish(), log);
        let text = lines.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    fn request(path: &str, status: Option<u16>, end: &str) -> String {
        let line = logged(|| {
            tracing::info!(
                target: "access",
                { tunnel.id = %"t-1", client.addr = %"127.0.0.1:1234", method = "GET", host = "blog.localhost", path, status, end,
                  bytes.to_agent = 0_u64, bytes.to_client = 1200_u64, duration_ms = 3.42 },
                "request"
            );
        });
        line.split_once("Z ").unwrap().1.to_owned()
    }

    #[test]
    fn a_request_is_a_short_line() {
        let line = request("/path", Some(200), "finished");
        assert_eq!(line, " INFO access: GET blog.localhost /path 200 1.2 kB 3.4 ms 127.0.0.1:1234 tunnel.id=t-1\n");
    }

    #[test]
    fn one_that_was_cut_off_says_so() {
        let line = request("/", None, "aborted_by_client");
        assert!(line.contains(" / - 1.2 kB") && line.ends_with(" end=aborted_by_client\n"), "{line}");
    }

    #[test]
    fn a_path_cannot_make_a_line_of_its_own_or_drive_a_terminal() {
        let line = request("/a\r\n2026 INFO b\x1b[2J\u{85}\u{2028}\u{202e}c", Some(200), "finished");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(r"/a\u{d}\u{a}2026\u{20}INFO\u{20}b\u{1b}[2J\u{85}\u{2028}\u{202e}c 200"), "{line}");
    }

    #[test]
    fn everything_else_is_as_it_was() {
        assert!(
            logged(|| tracing::warn!(field = 1, "other"))
                .contains("WARN tunnel_server::log::access::tests: other field=1\n")
        );
    }
}
