//! HTTP/2 by the byte, as a client that breaks the rules says it.

/// What every client begins with: the preface and empty SETTINGS.
pub fn greeting() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, b"")[..]].concat()
}

/// One frame (RFC 9113, 4.1).
///
/// # Panics
/// If the payload is longer than 16 MiB.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [0, length @ ..] = u32::try_from(payload.len()).expect("a payload").to_be_bytes() else {
        panic!("a payload of {} bytes", payload.len());
    };
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a gRPC call, whose message is to follow.
pub fn call(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h")];
    let rest = [("content-type", "application/grpc"), ("te", "trailers")];
    frame(HEADERS, END_HEADERS, stream, &block(fields.iter().chain(&rest).chain(more)))
}

/// A GET of the front page.
pub fn get(stream: u32) -> Vec<u8> {
    get_from("h", stream)
}

/// The same of this host.
pub fn get_from(host: &str, stream: u32) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", host)];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
}

/// An upload to this host, which is to follow.
pub fn post_to(host: &str, stream: u32) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", host)];
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

/// The message of a call that asks for nothing in particular, and the call's end.
pub fn empty_message(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, &[0; 5])
}

/// What kinds of frames these are; the last one may be incomplete.
pub fn kinds(mut frames: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, ..] = *frames {
        kinds.push(kind);
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// Header fields, none of them compressed (RFC 7541, 6.2.2).
pub fn block<'f>(fields: impl IntoIterator<Item = &'f (&'f str, &'f str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        push_string(&mut block, name);
        push_string(&mut block, value);
    }
    block
}

/// Its length as an integer with a prefix of 7 bits (RFC 7541, 5.1), and itself.
fn push_string(block: &mut Vec<u8>, text: &str) {
    if text.len() < 127 {
        block.push(text.len() as u8);
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

/// RFC 9113, 6.
pub const DATA: u8 = 0;
/// RFC 9113, 6.
pub const HEADERS: u8 = 1;
/// RFC 9113, 6.
pub const PRIORITY: u8 = 2;
/// RFC 9113, 6.
pub const RST_STREAM: u8 = 3;
/// RFC 9113, 6.
pub const SETTINGS: u8 = 4;
/// RFC 9113, 6.
pub const PING: u8 = 6;
/// RFC 9113, 6.
pub const GOAWAY: u8 = 7;
/// RFC 9113, 6.
pub const WINDOW_UPDATE: u8 = 8;
/// RFC 9113, 6.
pub const CONTINUATION: u8 = 9;

/// The last frame of a stream, one way.
pub const END_STREAM: u8 = 1;
/// No CONTINUATION follows.
pub const END_HEADERS: u8 = 4;
