use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::way::{Way, WithHttp1, WithHttp2};

/// The connection under the RPC. Where HTTP/2 is spoken on it, its first bytes show whether that gets through.
pub(super) struct Wire {
    link: Link,
    state: State,
}

enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

enum State {
    /// We have begun by HTTP/2, and heard nothing yet.
    Hoping(Way),
    Http2 {
        _held: WithHttp2,
    },
    Http1 {
        _held: WithHttp1,
    },
    Hopeless,
}

impl Wire {
    pub(super) fn plain(socket: TcpStream, way: Way) -> Self {
        Self { link: Link::Plain(socket), state: State::Hoping(way) }
    }

    pub(super) fn plain_http1(socket: TcpStream, way: &Way) -> Self {
        Self { link: Link::Plain(socket), state: State::Http1 { _held: way.with_http1() } }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, way: Way) -> Self {
        let state = match stream.get_ref().1.alpn_protocol() {
            Some(_) => State::Http2 { _held: way.with_http2() },
            None => State::Hoping(way),
        };
        Self { link: Link::Tls(Box::new(stream)), state }
    }

    pub(super) fn tls_http1(stream: TlsStream<TcpStream>, way: &Way) -> Self {
        Self { link: Link::Tls(Box::new(stream)), state: State::Http1 { _held: way.with_http1() } }
    }

    /// What the first bytes say; nothing, if it is the end.
    fn hear(&mut self, heard: &[u8]) -> io::Result<()> {
        let State::Hoping(way) = &self.state else { return Ok(()) };
        match heard.first() {
            Some(0) => {
                self.state = State::Http2 { _held: way.with_http2() };
                Ok(())
            }
            // HTTP/2 would only say that a frame has the wrong size.
            Some(&ALERT) => Err(no_http2("the server wants TLS; write https:// instead of http://")),
            first => {
                way.is_without_http2();
                self.state = State::Hopeless;
                if first.is_none() { Ok(()) } else { Err(no_http2("whoever answers does not speak HTTP/2")) }
            }
        }
    }

    /// Whoever hangs up before a word has done nothing of what we have asked: a server of HTTP/2 speaks before it acts.
    fn broke(&mut self, error: io::Error) -> io::Error {
        if let State::Hoping(way) = &self.state {
            way.is_without_http2();
            self.state = State::Hopeless;
        }
        error
    }
}

fn no_http2(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(match &mut wire.link {
            Link::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Link::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        });
        Poll::Ready(match read {
            Ok(()) => wire.hear(&buf.filled()[before..]),
            Err(error) => Err(wire.broke(error)),
        })
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let written = ready!(match &mut wire.link {
            Link::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Link::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        });
        Poll::Ready(written.map_err(|error| wire.broke(error)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().link {
            Link::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Link::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().link {
            Link::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Link::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// By which a TLS record of this kind begins (RFC 8446, 5.1). No HTTP/2 server begins so, nor with anything but 0: its first frame
/// would be SETTINGS of megabytes.
const ALERT: u8 = 0x15;
