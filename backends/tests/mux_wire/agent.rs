//! A small agent on the `h2` crate's server.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use tokio::{sync::mpsc, task::JoinSet};
use tunnel_api::OpenedTunnel;
use tunnel_backends::testing::soon;

use crate::knock::Knock;

/// An agent. Dropping it cuts its connection.
pub(crate) struct Agent {
    clients: mpsc::UnboundedReceiver<Client>,
    tasks: JoinSet<()>,
}

/// A client that waits for an answer.
pub(crate) struct Client {
    pub(crate) request: Request<()>,
    hears: RecvStream,
    respond: SendResponse<Bytes>,
}

/// A client that was taken.
pub(crate) struct Taken {
    hears: RecvStream,
    says: SendStream<Bytes>,
}

impl Agent {
    /// With the `h2` crate's own settings, but for a window of the connection that holds up no stream.
    pub(crate) async fn dial(tunnel: &OpenedTunnel) -> Self {
        Self::dial_with(tunnel, &mut h2::server::Builder::new()).await
    }

    pub(crate) async fn dial_with(tunnel: &OpenedTunnel, settings: &mut h2::server::Builder) -> Self {
        let socket = Knock::at(&tunnel.uri).enter(tunnel).await;
        let handshake = settings.initial_connection_window_size(1 << 30).handshake(socket);
        let mut connection = soon("the preface", handshake).await.expect("a server that speaks HTTP/2");
        let (clients_in, clients) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (head, hears) = request.into_parts();
                // Fails when the agent is being dropped.
                let _ = clients_in.send(Client { request: Request::from_parts(head, ()), hears, respond });
            }
        });
        Self { clients, tasks }
    }

    /// The next client.
    pub(crate) async fn client(&mut self) -> Client {
        soon("a client at the agent", self.clients.recv()).await.expect("an agent that is connected")
    }

    /// Takes every further client, and gives it to `origin`.
    pub(crate) fn serve<F>(mut self, origin: impl Fn(Taken) -> F + Send + 'static) -> JoinSet<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Some(client) = self.clients.recv().await {
                served.spawn(origin(client.take()));
            }
        });
        self.tasks
    }
}

impl Client {
    pub(crate) fn take(mut self) -> Taken {
        let says = self.respond.send_response(Response::new(()), false).expect("a client that is there");
        Taken { hears: self.hears, says }
    }
}

impl Taken {
    /// The next bytes; nothing when the client has finished.
    pub(crate) async fn hear(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let heard = self.hears.data().await?;
        Some(heard.and_then(|bytes| {
            self.hears.flow_control().release_capacity(bytes.len())?;
            Ok(bytes)
        }))
    }

    /// Says all of it, as the client's window lets it.
    pub(crate) async fn say(&mut self, mut bytes: Bytes) -> Result<(), h2::Error> {
        while !bytes.is_empty() {
            self.says.reserve_capacity(bytes.len());
            let room = match poll_fn(|cx| self.says.poll_capacity(cx)).await {
                Some(room) => room?.min(bytes.len()),
                None => return Err(h2::Reason::STREAM_CLOSED.into()),
            };
            self.says.send_data(bytes.split_to(room), false)?;
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<(), h2::Error> {
        self.says.send_data(Bytes::new(), true)
    }
}

/// An origin that says what it hears, and finishes when its client has.
pub(crate) async fn echo(mut client: Taken) {
    while let Some(Ok(bytes)) = client.hear().await {
        if client.say(bytes).await.is_err() {
            return;
        }
    }
    // Fails where the client has gone meanwhile.
    let _ = client.finish();
}
