use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tunnel_backends::carrier;

/// What a client says after its request's head. Where the client breaks off it ends in an error, and never as if it were whole.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Stream(carrier::RequestBody),
    Connection(Whole),
}

impl RequestBody {
    pub(crate) fn of_stream(body: carrier::RequestBody) -> Self {
        Self(Kind::Stream(body))
    }

    /// As it comes from hyper, of a request in this version.
    pub(crate) fn of_connection(body: Incoming, version: Version) -> Self {
        Self(Kind::Connection(Whole::new(body, version)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
            Kind::Connection(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Stream(body) => body.is_end_stream(),
            Kind::Connection(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Stream(body) => body.size_hint(),
            Kind::Connection(body) => body.size_hint(),
        }
    }
}

/// A body of hyper's whose end is one. On HTTP/2 hyper ends a body as if it were whole where the peer has reset the stream with
/// CANCEL or NO_ERROR, but does not claim then that it has seen the stream's end.
#[derive(Debug)]
pub(crate) struct Whole {
    body: Incoming,
    may_hide_aborts: bool,
}

impl Whole {
    pub(crate) fn new(body: Incoming, version: Version) -> Self {
        Self { body, may_hide_aborts: version == Version::HTTP_2 }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() && self.may_hide_aborts && !self.body.is_end_stream() {
            // Told once.
            self.may_hide_aborts = false;
            return Poll::Ready(Some(Err(ErrorKind::ConnectionReset.into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
