//! gRPC-Web over HTTP/1.1, as a client. By hand, because that of `tonic-web` takes a whole message or trailers of up to 4 GiB into
//! memory before tonic gets to see how long it is, and loses the last trailer where no line ends after it.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{ACCEPT, CONTENT_TYPE, TE, USER_AGENT},
};
use http_body::{Body as HttpBody, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{Sleep, sleep, timeout};
use tonic::{Code, Status, body::Body};

use super::dial::Connector;

/// Calls a server so, on as many connections as it has calls at once.
pub(super) struct Web {
    client: Client<Connector, Full<Bytes>>,
    url: Uri,
}

impl Web {
    pub(super) fn new(connector: Connector, url: Uri) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, url }
    }

    /// The gRPC that comes back says itself how it ended, as if it had come by HTTP/2.
    pub(super) async fn call(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Body>, Status> {
        *request.version_mut() = Version::HTTP_11;
        let mut url = self.url.clone().into_parts();
        url.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(url).map_err(|error| Status::internal(error.to_string()))?;
        let headers = request.headers_mut();
        headers.remove(TE);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC_WEB));
        headers.insert(ACCEPT, HeaderValue::from_static(GRPC_WEB));
        headers.insert("x-grpc-web", HeaderValue::from_static("1"));
        headers.insert(USER_AGENT, HeaderValue::from_static(US));
        let response = timeout(HEAD, self.client.request(request)).await;
        let response = response.map_err(|_| Status::unavailable("no answer within 15 s"))?.map_err(broken)?;
        let content_type = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if !content_type.starts_with(b"application/grpc-web") {
            return Err(no_grpc(&response));
        }
        // It may be all head.
        let is_refused = response.headers().contains_key("grpc-status");
        Ok(response.map(|body| if is_refused { Body::empty() } else { Body::new(Answer::new(body)) }))
    }
}

/// Somebody answers, and it is not the service.
fn no_grpc(response: &Response<Incoming>) -> Status {
    let status = response.status();
    let code = match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        _ => Code::Unavailable,
    };
    Status::new(code, format!("whoever answers there is no tunnel server, or none is behind it: it says {status}"))
}

fn broken(error: impl Error + Send + Sync + 'static) -> Status {
    let mut status = Status::unavailable("transport error");
    status.set_source(Arc::new(error));
    status
}

/// An answer: messages, framed as in gRPC, which are passed on as they come, and trailers in a frame of their own at the end.
struct Answer {
    body: Incoming,
    /// What has come and is not passed on yet.
    came: Bytes,
    frames: Frames,
    trailers: BytesMut,
    stage: Stage,
}

enum Stage {
    Open,
    /// All has been said.
    Ending(HeaderMap, Pin<Box<Sleep>>),
    Over,
}

impl Answer {
    fn new(body: Incoming) -> Self {
        let frames = Frames::default();
        Self { body, came: Bytes::new(), frames, trailers: BytesMut::new(), stage: Stage::Open }
    }

    /// What there is next; its trailers are not, but begin the end.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            let messages = self.frames.messages(&self.came);
            if messages > 0 {
                return Poll::Ready(Ok(Some(self.came.split_to(messages))));
            }
            // The trailers have begun, or nothing is left.
            self.trailers.extend_from_slice(&std::mem::take(&mut self.came));
            if let Some(trailers) = trailers(&self.trailers)? {
                self.stage = Stage::Ending(trailers, Box::pin(sleep(END)));
                return Poll::Ready(Ok(None));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(frame) => self.came = frame.map_err(broken)?.into_data().unwrap_or_default(),
                None => return Poll::Ready(Err(Status::unavailable("the answer was cut short"))),
            }
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let answer = self.get_mut();
        if matches!(answer.stage, Stage::Open) {
            match ready!(answer.poll_open(cx)) {
                Ok(Some(messages)) => return Poll::Ready(Some(Ok(Frame::data(messages)))),
                Ok(None) => {}
                Err(error) => {
                    answer.stage = Stage::Over;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let Stage::Ending(trailers, patience) = &mut answer.stage else { return Poll::Ready(None) };
        // The connection can be used again once the end of the body has been read, which comes with the trailers or right after.
        loop {
            match Pin::new(&mut answer.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(patience.as_mut().poll(cx));
                    break;
                }
            }
        }
        let trailers = std::mem::take(trailers);
        answer.stage = Stage::Over;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// Where in which frame of the messages we are.
#[derive(Debug, Default)]
struct Frames {
    /// Of a frame's head, flags and length.
    head: Vec<u8>,
    /// Of its message.
    left: u64,
}

impl Frames {
    /// How many of these bytes, which come next, belong to messages. Those after them are of the trailers.
    fn messages(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            if self.left > 0 {
                let some = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= some as u64;
                rest.advance(some);
            } else if self.head.is_empty() && first & TRAILERS != 0 {
                break;
            } else {
                self.head.push(*first);
                rest.advance(1);
                if let [_, length @ ..] = &self.head[..]
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.left = u32::from_be_bytes(length).into();
                    self.head.clear();
                }
            }
        }
        bytes.len() - rest.len()
    }
}

/// Those of a complete frame.
fn trailers(frame: &[u8]) -> Result<Option<HeaderMap>, Status> {
    let [flags, length @ ..] = frame else { return Ok(None) };
    let Some((length, text)) = length.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if *flags != TRAILERS || length > MOST_TRAILERS {
        return Err(malformed());
    }
    let Some(text) = text.get(..length) else { return Ok(None) };
    let mut trailers = HeaderMap::new();
    for line in text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|b| *b == b':').ok_or_else(malformed)?;
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name).map_err(|_| malformed())?;
        trailers.append(name, HeaderValue::from_bytes(value).map_err(|_| malformed())?);
    }
    Ok(Some(trailers))
}

fn malformed() -> Status {
    Status::unavailable("whoever answers there is no tunnel server: its trailers make no sense")
}

/// For the head of an answer: of a watch, too, it comes at once.
const HEAD: Duration = Duration::from_secs(15);

/// For the end of an answer whose trailers have come.
const END: Duration = Duration::from_secs(1);

/// The flag of a frame that is no message.
const TRAILERS: u8 = 0x80;

/// In bytes: as much as a head may have, several times.
const MOST_TRAILERS: usize = 64 * 1024;

const GRPC_WEB: &str = "application/grpc-web+proto";

const US: &str = concat!("tunnel/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend(length.to_be_bytes());
        frame.extend((0..length).map(|n| n as u8 | TRAILERS));
        frame
    }

    fn trailer_frame(text: &str) -> Vec<u8> {
        [&[TRAILERS][..], &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn messages_and_trailers_are_told_apart_however_they_are_cut() {
        let messages = [message(0), message(300), message(1)].concat();
        let end = trailer_frame("grpc-status:0\r\n");
        let all = [&messages[..], &end].concat();
        for size in 1..=all.len() {
            let mut frames = Frames::default();
            let (mut told, mut rest) = (Vec::new(), Vec::new());
            for chunk in all.chunks(size) {
                let length = if rest.is_empty() { frames.messages(chunk) } else { 0 };
                told.extend_from_slice(&chunk[..length]);
                rest.extend_from_slice(&chunk[length..]);
            }
            assert!(told == messages && rest == end, "in pieces of {size}");
        }
    }

    #[test]
    fn trailers_are_known_when_they_are_complete() {
        let details = "x".repeat(20_000);
        let frame =
            trailer_frame(&format!("grpc-status: 3\r\nGrpc-Message:no\r\nx-many:1\r\nx-many:2\r\nx-long:{details}"));
        for cut in 0..frame.len() {
            assert_eq!(trailers(&frame[..cut]).unwrap(), None, "{cut}");
        }
        let told = trailers(&frame).unwrap().unwrap();
        assert_eq!(
            (&told["grpc-status"], &told["grpc-message"], &told["x-long"]),
            (
                &HeaderValue::from_static("3"),
                &HeaderValue::from_static("no"),
                &HeaderValue::from_str(&details).unwrap()
            )
        );
        assert_eq!(told.get_all("x-many").iter().count(), 2);
    }

    #[test]
    fn trailers_that_make_no_sense_are_refused_before_they_are_waited_for() {
        for frame in [
            &[TRAILERS, 0xff, 0xff, 0xff, 0xff][..],
            &[TRAILERS | 1, 0, 0, 0, 0],
            &trailer_frame("grpc-status"),
            &trailer_frame("grpc status: 0\r\n"),
            &trailer_frame("grpc-status: \0\r\n"),
        ] {
            assert!(trailers(frame).is_err(), "{frame:?}");
        }
    }
}
