//! A small agent on the carrier's own dialler.

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};
use tunnel_api::{TunnelUri, tls::ClientTls};

use super::soon;
use crate::{
    carrier::{ClientsPerDialIn, DialError, Dialler, Offer, dialler_for},
    relay::{BoxDuplex, Duplex as _},
};

/// An agent that always keeps some dial-ins waiting. Dropping it is [`kill`](Self::kill)ing it without waiting.
pub struct TestAgent {
    tasks: JoinSet<()>,
    streams: mpsc::Receiver<AgentStream>,
}

/// Lets all agents of this process dial so; the first time counts.
pub fn trust(tls: &ClientTls) {
    TRUST.get_or_init(|| tls.clone());
}

/// One for all, because whoever writes a promise has only a URI.
static TRUST: OnceLock<ClientTls> = OnceLock::new();

impl TestAgent {
    /// Keeps `waiting` dial-ins waiting at this tunnel, where each carries one client.
    pub fn dial(uri: &TunnelUri, waiting: u32) -> Self {
        let dialler: Arc<dyn Dialler> =
            dialler_for(uri, &TRUST.get().cloned().unwrap_or_default()).expect("a dialler for this carrier").into();
        let (taken, streams) = mpsc::channel(HELD);
        let mut tasks = JoinSet::new();
        let dial_ins = match dialler.clients() {
            ClientsPerDialIn::One => waiting,
            ClientsPerDialIn::Many => 1,
        };
        for _ in 0..dial_ins {
            tasks.spawn(keep_dialling(dialler.clone(), uri.clone(), taken.clone()));
        }
        Self { tasks, streams }
    }

    /// The next client's stream.
    pub async fn accept(&mut self) -> AgentStream {
        soon("a client at the agent", self.streams.recv()).await.expect("an agent that dials")
    }

    /// The next client's stream, if one is there already.
    pub fn accepted(&mut self) -> Option<AgentStream> {
        self.streams.try_recv().ok()
    }

    /// Gives every further stream to `origin`, each in a task of its own.
    pub fn serve<F>(self, origin: impl Fn(AgentStream) -> F + Send + 'static) -> Serving
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { mut tasks, mut streams } = self;
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                tokio::select! {
                    Some(stream) = streams.recv() => { clients.spawn(origin(stream)); }
                    Some(_) = clients.join_next(), if !clients.is_empty() => {}
                    else => return,
                }
            }
        });
        Serving { tasks }
    }

    /// Ends it as a crash would: all its dial-ins are gone. A stream that has been [accepted](Self::accept) goes on.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// An agent that serves its clients by itself.
pub struct Serving {
    tasks: JoinSet<()>,
}

impl Serving {
    /// Ends it as a crash would: all its connections are gone, and all its streams are aborted.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// A client's stream at the agent. Dropping it aborts it, as a crash would; [`close`](Self::close) does not.
pub struct AgentStream {
    /// Its bytes.
    pub io: BoxDuplex,
    /// Where the client comes from.
    pub client_addr: SocketAddr,
    closes: bool,
}

impl AgentStream {
    /// Closes as a program does that has finished, whatever the client is doing.
    pub fn close(mut self) {
        self.closes = true;
    }

    /// Aborts, once all it has said is on its way: an abort may destroy what is not.
    pub async fn abort(mut self) {
        soon("what the agent said to leave", poll_fn(|cx| self.io.poll_sent(cx))).await;
    }
}

impl Drop for AgentStream {
    fn drop(&mut self) {
        if self.closes {
            self.io.finish_on_drop();
        } else {
            self.io.abort_on_drop();
        }
    }
}

/// An origin that says what it hears, and finishes when its client has.
pub async fn echo(mut stream: AgentStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.io.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) if stream.io.write_all(&buffer[..read]).await.is_ok() => {}
            _ => return,
        }
    }
    if stream.io.shutdown().await.is_ok() {
        stream.close();
    }
}

async fn keep_dialling(dialler: Arc<dyn Dialler>, uri: TunnelUri, taken: mpsc::Sender<AgentStream>) {
    loop {
        if dial_once(&*dialler, &uri, &taken).await.is_err() {
            // The tunnel may be gone, or a predecessor's dial-ins may not have been missed yet.
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn dial_once(dialler: &dyn Dialler, uri: &TunnelUri, taken: &mpsc::Sender<AgentStream>) -> Result<(), DialError> {
    let mut clients = dialler.dial(uri).await?;
    while let Some(offer) = clients.next().await? {
        // A request is not for this agent, and is left to another one.
        let Offer::Connection(offer) = offer else { continue };
        let client_addr = offer.client_addr;
        // A client may have gone meanwhile.
        if let Ok(io) = offer.accept() {
            // Fails when the agent is being killed.
            let _ = taken.send(AgentStream { io, client_addr, closes: false }).await;
        }
    }
    Ok(())
}

/// Streams that nobody has accepted yet.
const HELD: usize = 64;

impl fmt::Debug for TestAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestAgent").finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl fmt::Debug for AgentStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentStream").field("client_addr", &self.client_addr).finish_non_exhaustive()
    }
}
