//! A client's request on its way to an agent, and the answer on its way back, where the wire between is HTTP itself. Nothing is
//! wrapped: what the client asked is what the agent is asked.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;

use crate::{
    carrier::ptth::NOT_UPGRADED,
    session::{BoxStream, SessionGone},
};

/// A session whose wire is HTTP.
pub trait Requests: Send + Sync {
    /// Sends a request's head, and does not wait for an answer. `ends` says that it has no body. One with a
    /// [`Protocol`](h2::ext::Protocol) among its extensions is an extended CONNECT (RFC 8441), which
    /// [becomes](Exchange::into_stream) a stream when it is answered with success.
    ///
    /// An error means that nothing reached the agent.
    fn send(&self, head: Request<()>, ends: bool) -> Result<BoxExchange, SessionGone>;

    /// Whether the agent takes extended CONNECTs.
    fn takes_protocols(&self) -> bool;
}

/// A request that was sent. Dropping it before both sides have finished aborts it.
pub trait Exchange: Send {
    /// Ready with the answer's head. Not asked again then.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Unanswered>>;

    /// Ready once something can be said, with how many bytes, up to as many as are `wanted`. An error means that the agent wants to
    /// hear no more; its answer may still come, and is whole if it says so.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>>;

    /// Ready once the agent wants to hear no more, though nothing is to be said right now.
    fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Says this, for which there is room.
    fn say(&mut self, bytes: Bytes) -> io::Result<()>;

    /// Says that the request is whole, with these trailers if there are any.
    fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<()>;

    /// What the agent says after its answer's head: data, trailers; nothing more at its end; and an error where it aborted.
    /// Room for more is given back as data is taken.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>>;

    /// Whether the answer is known to be whole and taken to its end.
    fn is_answered(&self) -> bool;

    /// Ready once it takes up no place in its session any more. What has not ended by then is aborted here.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The bytes of a connection from here on: for an extended CONNECT that was answered with success.
    fn into_stream(self: Box<Self>) -> BoxStream;
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The agent has certainly done nothing with the request: another one may be asked.
    #[error("the agent did not look at the request")]
    Untouched,
    /// It has broken off: nobody knows what it did.
    #[error("the agent aborted the request")]
    Aborted,
    /// Its connection is gone: nobody knows what it did.
    #[error("the agent's connection was lost")]
    Lost,
}

/// Whether an extended CONNECT that was answered so has become a connection. Success says that it has; but where HTTP/1.1 has a 101
/// and a 200, which is what most services answer that do not know of upgrades, HTTP/2 has one and the same. So our agents mark the
/// latter.
pub fn is_connection<T>(answer: &Response<T>) -> bool {
    answer.status().is_success() && !answer.headers().contains_key(NOT_UPGRADED)
}

/// An exchange whose kind is known at run time only.
pub type BoxExchange = Box<dyn Exchange>;
