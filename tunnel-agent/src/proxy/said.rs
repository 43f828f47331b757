use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower::BoxError;

use crate::RequestBody;

/// What is said to the service after a request's head.
pub(super) enum Said {
    /// As it comes out of the tunnel, which is most often.
    ByClient(RequestBody),
    /// By whoever else uses the proxy.
    ByOther(UnsyncBoxBody<Bytes, BoxError>),
}

impl Said {
    pub(super) fn by_other<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::ByOther(body.map_err(Into::into).boxed_unsync())
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::ByClient(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::ByOther(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::ByClient(body) => body.is_end_stream(),
            Self::ByOther(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::ByClient(body) => body.size_hint(),
            Self::ByOther(body) => body.size_hint(),
        }
    }
}
