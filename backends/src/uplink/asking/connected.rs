use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body that ends well only while its client's connection is there.
///
/// hyper drops the sending half of a body with its connection, and then what came in chunks looks as if it had been whole. So whoever
/// has the connection cancels the token when it lets go of that, and before: a drop guard that is dropped first.
#[derive(Debug)]
pub struct WhileConnected<B> {
    body: Pin<Box<B>>,
    gone: CancellationToken,
}

impl<B> WhileConnected<B> {
    /// The token is cancelled when the connection goes.
    pub fn new(body: B, gone: CancellationToken) -> Self {
        Self { body: Box::pin(body), gone }
    }
}

impl<B> Body for WhileConnected<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        Poll::Ready(match ready!(self.body.as_mut().poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(Into::into)),
            None if self.gone.is_cancelled() && !self.body.is_end_stream() => {
                Some(Err(io::Error::from(ErrorKind::ConnectionAborted).into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
