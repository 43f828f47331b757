//! A request as people read it: one line, with its status in the colour of its class.

use tunnel_api::{RequestEnded, StreamEnd};

use super::units::{brief, bytes, printable};

/// `200 GET blog.localhost /path 3.4 ms, 1.2 kB`, and how it ended if that was not well. (When it was is told by whoever
/// prints the line.)
pub(crate) fn line(request: &RequestEnded, has_colours: bool) -> String {
    written(request, &format!("{} ", printable(&request.host)), has_colours)
}

/// The same for who sees one host's only.
pub(crate) fn line_of_one_host(request: &RequestEnded, has_colours: bool) -> String {
    written(request, "", has_colours)
}

fn written(request: &RequestEnded, host: &str, has_colours: bool) -> String {
    let RequestEnded { method, path, status, end, bytes_to_agent, bytes_to_client, duration, .. } = request;
    let status = painted(*status, has_colours);
    let [method, path] = [method, path].map(|text| printable(text));
    let sent = if *bytes_to_agent == 0 { String::new() } else { format!("{} in, ", bytes(*bytes_to_agent)) };
    let ended = how(*end).map(|how| format!("; {how}")).unwrap_or_default();
    format!("{status} {method} {host}{path} {}, {sent}{} out{ended}", brief(*duration), bytes(*bytes_to_client))
}

fn painted(status: Option<u16>, has_colours: bool) -> String {
    let (text, colour) = match status {
        None => ("---".to_owned(), RED),
        Some(status) => (status.to_string(), colour(status)),
    };
    if has_colours { format!("{colour}{text}{PLAIN}") } else { text }
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
        assert_eq!(line_of_one_host(&request(), false), "200 GET /path 3.4 ms, 1.2 kB out");
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
            .map(|status| painted(status, true))
            .into_iter()
            .collect();
        let expected = ["34m101", "32m204", "36m304", "33m404", "31m502", "31m---"];
        assert_eq!(colours, expected.map(|text| format!("\x1b[{text}\x1b[0m")));
        assert_eq!(painted(Some(500), false), "500");
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
