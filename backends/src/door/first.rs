use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{link::Link, meters::DoorRefused};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The first complete unit of a connection's protocol, and whatever came with it.
#[derive(Debug)]
pub(super) struct FirstUnit {
    pub(super) protocol: Protocol,
    pub(super) bytes: BytesMut,
}

impl FirstUnit {
    /// Whether it is a gRPC-Web call.
    pub(super) fn is_grpc_web(&self) -> bool {
        self.protocol == Protocol::Http1
            && self.bytes.windows(GRPC_WEB.len()).any(|some| some.eq_ignore_ascii_case(GRPC_WEB))
    }
}

/// Why a connection does not come in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it speaks nothing we know")]
    Unknown,
    #[error("its first {LONGEST_HEAD} bytes are no complete request")]
    TooLong,
    #[error("it ended before its first request did")]
    Ended,
    #[error("it wants TLS, which is not configured")]
    NoTls,
    #[error("what it says is no TLS")]
    Malformed,
    #[error("no TLS with it")]
    Handshake(#[source] io::Error),
    #[error("it broke")]
    Broken(#[from] io::Error),
}

impl Refusal {
    pub(super) fn counted_as(&self) -> DoorRefused {
        match self {
            Self::Unknown => DoorRefused::Unknown,
            Self::TooLong => DoorRefused::TooLong,
            Self::NoTls | Self::Malformed | Self::Handshake(_) => DoorRefused::Tls,
            Self::Ended | Self::Broken(_) => DoorRefused::Gone,
        }
    }
}

/// Reads until the first unit is complete. The caller bounds the time.
pub(super) async fn read_first_unit(link: &mut Link) -> Result<FirstUnit, Refusal> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        let known = bytes.len();
        if link.read_buf(&mut bytes).await? == 0 {
            return Err(Refusal::Ended);
        }
        match tell(&bytes, known) {
            Told::Complete(protocol) => return Ok(FirstUnit { protocol, bytes }),
            Told::Unknown => return Err(Refusal::Unknown),
            Told::MoreToCome if bytes.len() >= LONGEST_HEAD => {
                // It is lost on a client that is still sending, and no harm is done.
                let _ = link.write_all(TOO_LONG).await;
                let _ = link.shutdown().await;
                return Err(Refusal::TooLong);
            }
            Told::MoreToCome => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    MoreToCome,
    Complete(Protocol),
    Unknown,
}

/// Tells what a connection that begins like this speaks. The first `known` bytes have been looked at before, and the end of
/// a head is not in them: so a peer that sends byte by byte costs no more than another.
fn tell(bytes: &[u8], known: usize) -> Told {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return Told::MoreToCome;
    }
    if let Some(frames) = bytes.strip_prefix(PREFACE) {
        return tell_settings(frames);
    }
    // A method is a token (RFC 9110, 5.6.2); nothing else that we might be sent begins with a letter.
    if !bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        return Told::Unknown;
    }
    let bytes = &bytes[known.saturating_sub(3)..];
    let head_is_complete = bytes.windows(4).any(|w| w == b"\r\n\r\n") || bytes.windows(2).any(|w| w == b"\n\n");
    if head_is_complete { Told::Complete(Protocol::Http1) } else { Told::MoreToCome }
}

/// HTTP/2: the preface is followed by a SETTINGS frame of stream 0 (RFC 9113, 3.4): 9 bytes of header, 6 a setting.
fn tell_settings(frames: &[u8]) -> Told {
    let Some((header, payload)) = frames.split_at_checked(9) else { return Told::MoreToCome };
    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    if header[3] != SETTINGS || header[5..9] != [0; 4] || length > LONGEST_SETTINGS {
        return Told::Unknown;
    }
    if payload.len() < length { Told::MoreToCome } else { Told::Complete(Protocol::Http2) }
}

/// Of a request head, in bytes.
pub(super) const LONGEST_HEAD: usize = 16 * 1024;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GRPC_WEB: &[u8] = b"application/grpc-web";
const SETTINGS: u8 = 4;
const LONGEST_SETTINGS: usize = 6 * 128;
const TOO_LONG: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_unit_and_not_before_it_is_complete() {
        let h2 = [PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]].concat();
        let h1 = b"PRINT / HTTP/1.1\r\nhost: h\r\n\r\n".to_vec();
        for (whole, protocol) in [(h2, Protocol::Http2), (h1, Protocol::Http1)] {
            for end in 1..whole.len() {
                assert_eq!(tell(&whole[..end], end - 1), Told::MoreToCome, "{protocol:?} {end}");
            }
            assert_eq!(tell(&whole, 0), Told::Complete(protocol));
        }
    }

    #[test]
    fn what_is_neither_is_not_waited_for() {
        let tls = [0x16, 3, 1, 2, 0];
        let ping_first = [PREFACE, &[0, 0, 8, 6, 0, 0, 0, 0, 0]].concat();
        let long_settings = [PREFACE, &[1, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for bytes in [&tls[..], b"\r\n", b"\0", &ping_first, &long_settings] {
            assert_eq!(tell(bytes, 0), Told::Unknown, "{bytes:?}");
        }
    }
}
