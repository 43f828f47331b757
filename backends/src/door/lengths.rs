use super::first::LONGEST_HEAD;

/// An HTTP/1.1 connection's requests as they are read, which are to say in one way only how long they are.
///
/// hyper takes a request with a `Transfer-Encoding` and a `Content-Length` for one in chunks, as RFC 9112 (6.1) allows, and says
/// nothing of it. Whoever stands in front of us may have taken it for the other, and then what comes next is not what it thinks. So
/// the end of such a head is spoiled: hyper refuses it, and hangs up.
///
/// What comes after a request for an upgrade is taken for another request, which it is wherever the upgrade is not granted. hyper has
/// read it by the time that is known, and so nobody could look at it then.
#[derive(Debug)]
pub(super) struct Lengths(Next);

/// What the next byte is part of.
#[derive(Debug)]
enum Next {
    /// A head, of which this was read.
    Head(Vec<u8>),
    /// A body with so many bytes left.
    Body(u64),
    /// A body in chunks.
    Chunks(Chunks),
    /// Nothing that is ours to understand: hyper is going to refuse it, or it is what a connection is upgraded to.
    Anything,
}

/// Where in a body in chunks (RFC 9112, 7.1).
#[derive(Debug, Clone, Copy)]
enum Chunks {
    Size(u64),
    Extension(u64),
    Data(u64),
    /// The line break after a chunk.
    DataEnd,
    /// A line of trailers; whether there is something in it.
    Trailers(bool),
}

impl Default for Lengths {
    fn default() -> Self {
        Self(Next::Head(Vec::new()))
    }
}

impl Lengths {
    /// Follows what was read, and spoils what is ambiguous.
    pub(super) fn follow(&mut self, read: &mut [u8]) {
        self.0.follow(read);
    }
}

impl Next {
    fn follow(&mut self, mut read: &mut [u8]) {
        while !read.is_empty() {
            let used = match self {
                // Nearly always a head comes in one piece: it is looked at where it is.
                Self::Head(head) if head.is_empty() => {
                    // Line breaks in front of a request are no part of it.
                    let blank = read.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                    match end_of_head(&read[blank..]) {
                        Some(end) => {
                            let used = blank + end;
                            let (next, is_ambiguous) = after(&read[blank..used]);
                            if is_ambiguous {
                                read[used - 1] = 0;
                            }
                            *self = next;
                            used
                        }
                        None => {
                            head.extend_from_slice(&read[blank..]);
                            self.unless_too_long();
                            read.len()
                        }
                    }
                }
                Self::Head(head) => {
                    let known = head.len().saturating_sub(3);
                    let before = head.len();
                    head.extend_from_slice(read);
                    match end_of_head(&head[known..]) {
                        Some(end) => {
                            let end = known + end;
                            let used = end - before;
                            let (next, is_ambiguous) = after(&head[..end]);
                            if is_ambiguous {
                                read[used - 1] = 0;
                            }
                            *self = next;
                            used
                        }
                        None => {
                            self.unless_too_long();
                            read.len()
                        }
                    }
                }
                Self::Body(left) => {
                    let used = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
                    *left -= used as u64;
                    if *left == 0 {
                        *self = Self::Head(Vec::new());
                    }
                    used
                }
                Self::Chunks(chunks) => {
                    let (used, next) = chunks.step(read);
                    *self = next;
                    used
                }
                Self::Anything => return,
            };
            read = &mut read[used..];
        }
    }

    fn unless_too_long(&mut self) {
        if matches!(self, Self::Head(head) if head.len() > LONGEST_HEAD) {
            *self = Self::Anything;
        }
    }
}

impl Chunks {
    /// Takes at least one byte.
    fn step(self, read: &[u8]) -> (usize, Next) {
        let byte = read[0];
        let next = match (self, byte) {
            (Self::Data(left), _) => {
                let used = usize::try_from(left).map_or(read.len(), |left| left.min(read.len()));
                let left = left - used as u64;
                let next = if left == 0 { Self::DataEnd } else { Self::Data(left) };
                return (used, Next::Chunks(next));
            }
            (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailers(false),
            (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size),
            (Self::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let Some(size) = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit))) else {
                    return (1, Next::Anything);
                };
                Self::Size(size)
            }
            (Self::Size(size) | Self::Extension(size), _) => Self::Extension(size),
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size(0),
            (Self::DataEnd, _) => return (1, Next::Anything),
            (Self::Trailers(false), b'\n') => return (1, Next::Head(Vec::new())),
            (Self::Trailers(_), b'\n') => Self::Trailers(false),
            (Self::Trailers(has), b'\r') => Self::Trailers(has),
            (Self::Trailers(_), _) => Self::Trailers(true),
        };
        (1, Next::Chunks(next))
    }
}

/// Where a head ends in these bytes, if it does: after an empty line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// What comes after this head, and whether that is said in two ways.
fn after(head: &[u8]) -> (Next, bool) {
    let (mut length, mut is_encoded) = (None, false);
    // The first line is no field.
    for line_break in memchr::memchr_iter(b'\n', head) {
        let line = &head[line_break + 1..];
        if let Some(rest) = value_of(b"content-length", line) {
            let value = rest.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
            length = Some(std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()));
        } else if value_of(b"transfer-encoding", line).is_some() {
            is_encoded = true;
        }
    }
    let next = match length {
        _ if is_encoded => Next::Chunks(Chunks::Size(0)),
        None | Some(Some(0)) => Next::Head(Vec::new()),
        Some(Some(length)) => Next::Body(length),
        Some(None) => Next::Anything,
    };
    (next, is_encoded && length.is_some())
}

/// What follows the name and its colon, where these bytes begin with them.
fn value_of<'b>(name: &[u8], bytes: &'b [u8]) -> Option<&'b [u8]> {
    let (begin, rest) = bytes.split_at_checked(name.len())?;
    rest.strip_prefix(b":").filter(|_| begin.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "POST / HTTP/1.1\r\nhost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// What becomes of these bytes, read in pieces of this size.
    fn followed(words: &str, piece: usize) -> Vec<u8> {
        let mut bytes = words.as_bytes().to_vec();
        let mut lengths = Lengths::default();
        bytes.chunks_mut(piece).for_each(|piece| lengths.follow(piece));
        bytes
    }

    #[test]
    fn a_length_that_is_said_in_two_ways_is_spoiled_wherever_it_comes() {
        for first in [
            "",
            "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\nhost: h\n\n",
            "\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n\n\n\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n1F\r\n0123456789012345678901234567890\r\n0\r\nx: y\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\r\nupgrade: x\r\n\r\n",
            "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n",
        ] {
            for both in [BOTH.to_owned(), BOTH.replace("\r\n", "\n")] {
                let words = format!("{first}{both}rest");
                let mut expected = words.clone().into_bytes();
                expected[first.len() + both.len() - 1] = 0;
                for piece in 1..=words.len() {
                    let followed = followed(&words, piece);
                    assert_eq!(followed, expected, "{words:?} in pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_it_is_left_as_it_is() {
        for words in [
            format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{BOTH}", BOTH.len()),
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{BOTH}\r\n0\r\n\r\n", BOTH.len()),
            format!("GET / HTTP/1.1\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\x01\n\n\n{}", "y".repeat(100)),
            "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhelloGET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned(),
        ] {
            for piece in 1..=words.len() {
                assert_eq!(followed(&words, piece), words.as_bytes(), "{words:?} in pieces of {piece}");
            }
        }
    }
}
