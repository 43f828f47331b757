use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::connections::InUse;
use crate::serve::Whole;

/// The body of an answer.
pub(crate) struct Answer {
    /// Dropped before the body, which aborts what is not over.
    in_use: Option<InUse>,
    body: Kind,
}

enum Kind {
    OfService(Whole),
    /// A page of ours, or nothing.
    Ours(Full<Bytes>),
}

impl Answer {
    pub(super) fn by_http1(body: Incoming, in_use: InUse) -> Self {
        let body = Kind::OfService(Whole::new(body, Version::HTTP_11));
        let mut answer = Self { in_use: Some(in_use), body };
        if answer.is_end_stream() {
            answer.is_over();
        }
        answer
    }

    pub(super) fn by_http2(body: Incoming) -> Self {
        Self { in_use: None, body: Kind::OfService(Whole::new(body, Version::HTTP_2)) }
    }

    pub(super) fn of_ours(text: impl Into<Bytes>) -> Self {
        Self { in_use: None, body: Kind::Ours(Full::new(text.into())) }
    }

    /// The connection is to be upgraded: its end is not the answer's.
    pub(super) fn let_go(mut self) {
        if let Some(in_use) = &mut self.in_use {
            in_use.let_go();
        }
    }

    /// Its connection may be the next request's now.
    fn is_over(&mut self) {
        if let Some(mut in_use) = self.in_use.take() {
            in_use.is_over();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(in_use) = &mut self.in_use {
            in_use.drive(cx);
        }
        let frame = match &mut self.body {
            Kind::OfService(body) => ready!(Pin::new(body).poll_frame(cx)),
            Kind::Ours(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
        };
        // Nothing follows trailers.
        let is_last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.is_end_stream(),
            Some(Err(_)) => false,
        };
        if is_last {
            self.is_over();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Kind::OfService(body) => body.is_end_stream(),
            Kind::Ours(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Kind::OfService(body) => body.size_hint(),
            Kind::Ours(body) => body.size_hint(),
        }
    }
}
