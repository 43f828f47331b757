//! A good client beside bad ones: how long its calls take, and the words on a stream of its own.

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};
use tonic::{service::interceptor::InterceptedService, transport::Channel};
use tunnel_api::rpc::v1::{ListTunnelsRequest, OpenTunnelRequest, client::TunnelClient};

use crate::{client::at, credentials::Bearer};

/// A client that calls on a connection that it keeps, on new ones, and talks on a tunnel's stream.
#[derive(Debug)]
pub struct GoodClient {
    addr: SocketAddr,
    token: Bearer,
    kept: TunnelClient<InterceptedService<Channel, Bearer>>,
    agent: TcpStream,
    client: TcpStream,
}

impl GoodClient {
    /// Comes to the server at `addr`; the token may be any word where it asks for none.
    ///
    /// # Panics
    /// If it is not served.
    pub async fn come(addr: SocketAddr, token: &str) -> Self {
        Self::come_with(addr, token, OpenTunnelRequest::default()).await
    }

    /// The same, with a tunnel at this public port.
    ///
    /// # Panics
    /// If it is not served.
    pub async fn come_to(addr: SocketAddr, token: &str, port: u16) -> Self {
        let address = format!("tcp://:{port}");
        Self::come_with(addr, token, OpenTunnelRequest { address, ..OpenTunnelRequest::default() }).await
    }

    async fn come_with(addr: SocketAddr, token: &str, request: OpenTunnelRequest) -> Self {
        let token = Bearer::new(token);
        let mut kept = connect(addr, &token).await;
        let request = OpenTunnelRequest { backend: "tcp".to_owned(), ..request };
        let opened = kept.open_tunnel(request).await.expect("a tunnel").into_inner();
        let agent = TcpStream::connect(at(&opened.uri)).await.expect("a dial-in");
        let client = TcpStream::connect(at(&opened.address)).await.expect("a client");
        Self { addr, token, kept, agent, client }
    }

    /// Goes about its business until that is over, and says how it went.
    ///
    /// # Panics
    /// If it is not served.
    pub async fn beside<T>(&mut self, during: impl Future<Output = T>) -> (T, Latencies) {
        let mut latencies = Latencies::default();
        let goes_on = Cell::new(true);
        let business = async {
            let mut beat = interval(BEAT);
            while goes_on.get() {
                beat.tick().await;
                timeout(LONGEST, self.round(&mut latencies)).await.expect("a good client is served");
            }
        };
        let (result, ()) = join(during.inspect(|_| goes_on.set(false)), business).await;
        (result, latencies)
    }

    async fn round(&mut self, latencies: &mut Latencies) {
        let since = Instant::now();
        self.kept.list_tunnels(ListTunnelsRequest::default()).await.expect("a list");
        latencies.calls.push(since.elapsed());

        let since = Instant::now();
        let mut new = connect(self.addr, &self.token).await;
        new.list_tunnels(ListTunnelsRequest::default()).await.expect("a list on a new connection");
        latencies.new_connections.push(since.elapsed());

        let since = Instant::now();
        self.client.write_all(b"?").await.expect("a stream that goes on");
        let mut heard = [0];
        self.agent.read_exact(&mut heard).await.expect("a stream that goes on");
        self.agent.write_all(&heard).await.expect("a stream that goes on");
        self.client.read_exact(&mut heard).await.expect("a stream that goes on");
        latencies.words.push(since.elapsed());
    }
}

async fn connect(addr: SocketAddr, token: &Bearer) -> TunnelClient<InterceptedService<Channel, Bearer>> {
    let endpoint = Channel::from_shared(format!("http://{addr}")).expect("a URL");
    TunnelClient::with_interceptor(endpoint.connect().await.expect("a connection"), token.clone())
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Latencies {
    calls: Vec<Duration>,
    new_connections: Vec<Duration>,
    words: Vec<Duration>,
}

impl Latencies {
    /// Of all kinds, the worst of the times within which 99 of 100 were.
    pub fn p99(&self) -> Duration {
        self.kinds().map(|(_, times)| p99(times)).into_iter().max().unwrap_or_default()
    }

    fn kinds(&self) -> [(&'static str, &[Duration]); 3] {
        [("calls", &self.calls), ("calls on new connections", &self.new_connections), ("words", &self.words)]
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, times) in self.kinds() {
            write!(f, "{} {kind}, p99 {:?}; ", times.len(), p99(times))?;
        }
        Ok(())
    }
}

fn p99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get((times.len() * 99 / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

const BEAT: Duration = Duration::from_millis(10);

/// For one of each: whoever is not served within that is shut out.
const LONGEST: Duration = Duration::from_secs(10);
