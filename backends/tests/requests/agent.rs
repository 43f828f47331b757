//! An agent on the `h2` crate's server, as a stock program has one.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::{sync::mpsc, task::JoinSet};
use tunnel_backends::testing::soon;

use crate::{knock::Knock, site::Site};

/// An agent. Dropping it cuts its connection.
pub(crate) struct Agent {
    requests: mpsc::UnboundedReceiver<Asked>,
    _connection: JoinSet<()>,
}

/// A request that waits for an answer.
pub(crate) struct Asked {
    pub(crate) head: Request<()>,
    pub(crate) hears: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
}

impl Agent {
    pub(crate) async fn dial(site: &Site) -> Self {
        Self::dial_with(site, &mut h2::server::Builder::new()).await
    }

    pub(crate) async fn dial_with(site: &Site, settings: &mut h2::server::Builder) -> Self {
        let socket = Knock::at(&site.tunnel.uri).enter(&site.tunnel).await;
        let handshake = settings.initial_connection_window_size(1 << 30).handshake(socket);
        let mut connection = soon("the preface", handshake).await.expect("a server that speaks HTTP/2");
        let (requests_in, requests) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (head, hears) = request.into_parts();
                // Fails when the agent is being dropped.
                let _ = requests_in.send(Asked { head: Request::from_parts(head, ()), hears, respond });
            }
        });
        Self { requests, _connection: task }
    }

    pub(crate) async fn next(&mut self) -> Asked {
        soon("a request at the agent", self.requests.recv()).await.expect("an agent that is connected")
    }

    /// Hears each request to its end, and says the same.
    pub(crate) fn echo(self) -> JoinSet<()> {
        let Self { mut requests, _connection: mut tasks } = self;
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Some(mut asked) = requests.recv().await {
                served.spawn(async move {
                    let (Ok(bytes), Ok(mut says)) = (asked.hear_all().await, asked.answer(200)) else { return };
                    if say(&mut says, bytes.into()).await.is_ok() {
                        let _ = says.send_data(Bytes::new(), true);
                    }
                });
                while served.try_join_next().is_some() {}
            }
        });
        tasks
    }
}

impl Asked {
    /// The next bytes; nothing when the client has finished.
    pub(crate) async fn hear(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let heard = soon("more of a request", self.hears.data()).await?;
        Some(heard.and_then(|bytes| {
            self.hears.flow_control().release_capacity(bytes.len())?;
            Ok(bytes)
        }))
    }

    pub(crate) async fn hear_exactly(&mut self, length: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < length {
            heard.extend(self.hear().await.expect("more of a request").expect("a request that goes on"));
        }
        heard
    }

    pub(crate) async fn hear_all(&mut self) -> Result<Vec<u8>, h2::Error> {
        let mut heard = Vec::new();
        while let Some(bytes) = self.hear().await {
            heard.extend(bytes?);
        }
        Ok(heard)
    }

    pub(crate) async fn trailers(&mut self) -> Option<HeaderMap> {
        soon("a request's end", self.hears.trailers()).await.expect("an end")
    }

    /// Answers with this status, and goes on.
    pub(crate) fn answer(&mut self, status: u16) -> Result<SendStream<Bytes>, h2::Error> {
        self.respond.send_response(head(status), false)
    }

    /// Answers with this status and says this.
    pub(crate) async fn serve(mut self, status: u16, bytes: &'static [u8]) {
        let mut says = self.answer(status).expect("a client that is there");
        says.send_data(Bytes::from_static(bytes), true).expect("a client that is there");
    }
}

pub(crate) fn head(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).expect("a head")
}

/// Says all of it, as the client's window lets it.
pub(crate) async fn say(says: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        says.reserve_capacity(bytes.len());
        let room = match poll_fn(|cx| says.poll_capacity(cx)).await {
            Some(room) => room?.min(bytes.len()),
            None => return Err(h2::Reason::STREAM_CLOSED.into()),
        };
        says.send_data(bytes.split_to(room), false)?;
    }
    Ok(())
}
