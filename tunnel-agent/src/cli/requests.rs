//! A request as people read it: one line, with its status in the colour of its class.

use std::fmt;

use tunnel_api::{RequestEnded, StreamEnd};

use super::units::{Brief, Bytes, Printable};

/// `200 GET blog.localhost /path 3.4 ms, 1.2 kB`, and how it ended if that was not well. (When it was is told by whoever
/// prints the line.)
pub(crate) fn line(request: &RequestEnded, has_colours: bool) -> String {
    Line { request, shows_host: true, has_colours }.to_string()
}

/// The same for who sees one host's only, to be written among others: there may be thousands a second.
pub(crate) fn line_of_one_host(request: &RequestEnded, has_colours: bool) -> impl fmt::Display {
    Line { request, shows_host: false, has_colours }
}

struct Line<'r> {
    request: &'r RequestEnded,
    shows_host: bool,
    has_colours: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestEnded { method, host, path, status, end, bytes_to_agent, bytes_to_client, duration, .. } =
            self.request;
        write!(f, "{} {} ", Status(*status, self.has_colours), Printable(method))?;
        if self.shows_host {
            write!(f, "{} ", Printable(host))?;
        }
        write!(f, "{} {}, ", Printable(path), Brief(*duration))?;
        if *bytes_to_agent > 0 {
            write!(f, "{} in, ", Bytes(*bytes_to_agent))?;
        }
        write!(f, "{} out", Bytes(*bytes_to_client))?;
        match how(*end) {
            Some(how) => write!(f, "; {how}"),
            None => Ok(()),
        }
    }
}

/// Painted where there are colours.
struct Status(Option<u16>, bool);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status, has_colours) = *self;
        if has_colours {
            f.write_str(status.map_or(RED, colour))?;
        }
        match status {
            None => f.write_str("---")?,
            Some(status) => write!(f, "{status}")?,
        }
        if has_colours { f.write_str(PLAIN) } else { Ok(()) }
    }
}

fn colour(status: u16) -> &'static str {
    match status {
        ..200 => BLUE,
        200..300 => GREEN,
        300..400 => CYAN,
        400..500 => YELLOW,
        500.. => RED,
    }
}

fn how(end: StreamEnd) -> Option<&'static str> {
    match end {
        StreamEnd::Finished => None,
        StreamEnd::AbortedByClient => Some("the client broke off"),
        StreamEnd::AbortedByAgent => Some("cut off by the agent"),
        StreamEnd::Stalled => Some("stalled and was cut off"),
        StreamEnd::TunnelClosed => Some("cut off as the tunnel closed"),
    }
}

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request() -> RequestEnded {
        RequestEnded {
            client: ([127, 0, 0, 1], 1234).into(),
            method: "GET".to_owned(),
            host: "blog.localhost".to_owned(),
            path: "/path".to_owned(),
            status: Some(200),
            end: StreamEnd::Finished,
            bytes_to_agent: 0,
            bytes_to_client: 1200,
            first_byte: None,
            duration: Duration::from_micros(3400),
        }
    }

    #[test]
    fn it_says_what_was_asked_and_what_came_of_it() {
        assert_eq!(line(&request(), false), "200 GET blog.localhost /path 3.4 ms, 1.2 kB out");
        assert_eq!(line_of_one_host(&request(), false).to_string(), "200 GET /path 3.4 ms, 1.2 kB out");
        let upload = RequestEnded { bytes_to_agent: 34_000_000, method: "PUT".to_owned(), ..request() };
        assert_eq!(line(&upload, false), "200 PUT blog.localhost /path 3.4 ms, 34 MB in, 1.2 kB out");
    }

    #[test]
    fn what_did_not_end_well_is_said() {
        let unanswered = RequestEnded { status: None, end: StreamEnd::AbortedByClient, ..request() };
        assert_eq!(line(&unanswered, false), "--- GET blog.localhost /path 3.4 ms, 1.2 kB out; the client broke off");
    }

    #[test]
    fn each_class_of_status_has_its_colour() {
        let colours: Vec<_> = [Some(101), Some(204), Some(304), Some(404), Some(502), None]
            .map(|status| Status(status, true).to_string())
            .into_iter()
            .collect();
        let expected = ["34m101", "32m204", "36m304", "33m404", "31m502", "31m---"];
        assert_eq!(colours, expected.map(|text| format!("\x1b[{text}\x1b[0m")));
        assert_eq!(Status(Some(500), false).to_string(), "500");
    }

    #[test]
    fn what_a_client_sends_cannot_drive_the_terminal() {
        let hostile = RequestEnded {
            method: "G\x07T".to_owned(),
            host: "a\u{202e}b".to_owned(),
            path: "/\x1b[2J\n200 GET".to_owned(),
            ..request()
        };
        assert_eq!(line(&hostile, false), "200 G?T a?b /?[2J?200 GET 3.4 ms, 1.2 kB out");
    }
}
