use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use super::{Connect, ConnectError, MAX_ANSWER, convert, line::Line, token::Credentials, v1, watches::Watches};
use crate::{
    Caller, OpenTunnel, OpenedTunnel, Owner, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvent,
    TunnelEvents, TunnelInfo, TunnelName, TunnelRef, TunnelUri, WatchFilter, What,
};

/// A tunnel server somewhere else, as a backend: the gRPC client of the service.
///
/// To the remote server all callers are one owner, the one whose credentials this client has. Names are kept apart by
/// prefixing them with the caller's owner (`alice/blog`); whoever knows a URI or an id may use it, whichever of our
/// callers it belongs to.
#[derive(Debug, Clone)]
pub struct RemoteBackend {
    client: Client,
    watches: Watches,
    credentials: Credentials,
}

type Client = v1::client::TunnelClient<InterceptedService<Line, Credentials>>;

impl RemoteBackend {
    /// Connects to the server at `url`, such as `https://tunnels.example:8010`, trusting whom this system trusts.
    /// [`Connect`] has more to choose. The connection comes back by itself.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Connect::to(url).connect().await
    }

    /// As [`connect`](Self::connect), but the connection is made by the first call.
    pub fn connect_lazy(url: &str) -> Result<Self, ConnectError> {
        Connect::to(url).connect_lazy()
    }

    /// A client over a channel that was set up elsewhere, which is HTTP/2 or nothing.
    pub fn over(channel: Channel) -> Self {
        Self::with(Line::Channel(channel), Credentials::default(), || None)
    }

    /// `more` makes further lines to the same server.
    pub(super) fn with(
        line: Line,
        credentials: Credentials,
        more: impl Fn() -> Option<Line> + Send + Sync + 'static,
    ) -> Self {
        Self { client: client(line.clone(), credentials.clone()), watches: Watches::new(line, more), credentials }
    }
}

#[async_trait]
impl TunnelBackend for RemoteBackend {
    async fn open_tunnel(&self, caller: &Caller, mut request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        request.name = request.name.map(|name| outer(&caller.owner, &name)).transpose()?;
        request.caller_address = request.caller_address.or_else(|| caller.peer_ip()).filter(|ip| reachable(*ip));
        let answer = timed(self.client.clone().open_tunnel(convert::into_open_request(request))).await?;
        convert::from_open_response(&answer).map_err(malformed)
    }

    async fn get_tunnel_address(&self, _caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        let request = v1::GetTunnelAddressRequest { uri: uri.expose().to_owned() };
        let answer = timed(self.client.clone().get_tunnel_address(request)).await?;
        answer.address.parse().map_err(malformed)
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        use v1::close_tunnel_request::Tunnel;
        let tunnel = Some(match tunnel {
            TunnelRef::Uri(uri) => Tunnel::Uri(uri.expose().to_owned()),
            TunnelRef::Id(id) => Tunnel::Id(id.to_string()),
            TunnelRef::Name(name) => Tunnel::Name(outer(&caller.owner, name)?.to_string()),
        });
        timed(self.client.clone().close_tunnel(v1::CloseTunnelRequest { tunnel })).await?;
        Ok(())
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        let request = v1::ListTunnelsRequest {
            page_size: u32::try_from(page.limit.min(Page::MAX)).unwrap_or(u32::MAX),
            page_token: page.after.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let answer = timed(self.client.clone().list_tunnels(request)).await?;
        answer
            .tunnels
            .into_iter()
            .map(|info| convert::from_tunnel_info(info).map(|info| inner_info(&caller.owner, info)).map_err(malformed))
            .collect()
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let name = filter.name.as_ref().map(|name| outer(&caller.owner, name)).transpose()?;
        let request = v1::WatchTunnelsRequest {
            id: filter.id.as_ref().map(ToString::to_string).unwrap_or_default(),
            name: name.map(|name| name.to_string()).unwrap_or_default(),
            requests: filter.requests,
            no_clients: filter.no_clients,
        };
        let (line, place) = self.watches.place();
        let events = client(line, self.credentials.clone()).watch_tunnels(request).await?.into_inner();
        let owner = caller.owner.clone();
        let translate = move |event: Result<v1::WatchTunnelsResponse, tonic::Status>| {
            // It has its place for as long as there may be news.
            let _place = &place;
            convert::from_event(event?).map(|event| inner_event(&owner, event)).map_err(malformed)
        };
        Ok(events.map(translate).boxed())
    }
}

fn client(line: Line, credentials: Credentials) -> Client {
    v1::client::TunnelClient::with_interceptor(line, credentials).max_decoding_message_size(MAX_ANSWER)
}

/// One answer, within a bound: a server that accepts a call and falls silent must not hold its caller for ever.
async fn timed<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, TunnelError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(TunnelError::Unavailable {
            why: format!("the tunnel server did not answer within {} s", CALL.as_secs()),
            retry_after: None,
        }),
    }
}

/// Every call of the service answers at once; this is for a server that is lost.
const CALL: Duration = Duration::from_secs(15);

/// Whether a dial-in could come to the remote server from there. From loopback it could not: then the remote server pins
/// to the address our call comes from.
fn reachable(ip: IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified()
}

/// A caller's name for a tunnel as the remote server knows it. The owner `local` is everybody where there are no
/// credentials, so its names go out as they are.
fn outer(owner: &Owner, name: &TunnelName) -> Result<TunnelName, TunnelError> {
    if *owner == Owner::local() {
        return Ok(name.clone());
    }
    format!("{owner}/{name}").parse().map_err(|error: crate::NameError| TunnelError::invalid("name", error.to_string()))
}

fn inner_info(owner: &Owner, mut info: TunnelInfo) -> TunnelInfo {
    let prefix = format!("{owner}/");
    if let Some(name) = info.name.as_ref().and_then(|name| name.as_str().strip_prefix(&prefix)) {
        info.name = name.parse().ok();
    }
    info
}

fn inner_event(owner: &Owner, mut event: TunnelEvent) -> TunnelEvent {
    event.what = match event.what {
        What::Present(info) => What::Present(Box::new(inner_info(owner, *info))),
        What::Opened(info) => What::Opened(Box::new(inner_info(owner, *info))),
        what => what,
    };
    event
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> TunnelError {
    TunnelError::internal("reading the remote server's answer", error)
}
