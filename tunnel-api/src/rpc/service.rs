use std::{pin::Pin, str::FromStr};

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, async_trait};

use super::{MAX_MESSAGE, convert, v1};
use crate::{Caller, ConnectionAddrs, NameError, Page, TunnelBackend, TunnelError, TunnelRef, TunnelUri, WatchFilter};

/// Puts any backend behind gRPC.
///
/// Who the caller is comes from the request's extensions: a [`Caller`], if something in front has established one;
/// otherwise [`ConnectionAddrs`], if whoever accepted the connection left them; otherwise what tonic's own server knows
/// of the connection.
#[derive(Debug, Clone)]
pub struct TunnelService<B> {
    backend: B,
}

impl<B: TunnelBackend> TunnelService<B> {
    /// The backend's service.
    pub fn new(backend: B) -> Self {
        Self { backend }
    }

    /// The service as tonic's servers and routers take it, with the limits on messages set.
    pub fn into_server(self) -> v1::service::TunnelServer<Self> {
        v1::service::TunnelServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }
}

#[async_trait]
impl<B: TunnelBackend> v1::service::Tunnel for TunnelService<B> {
    async fn open_tunnel(
        &self,
        request: Request<v1::OpenTunnelRequest>,
    ) -> Result<Response<v1::OpenTunnelResponse>, Status> {
        let caller = caller(&request);
        let wanted = convert::open_request(request.into_inner())?;
        let opened = self.backend.open_tunnel(&caller, wanted).await?;
        Ok(Response::new(convert::open_response(&opened)))
    }

    async fn get_tunnel_address(
        &self,
        request: Request<v1::GetTunnelAddressRequest>,
    ) -> Result<Response<v1::GetTunnelAddressResponse>, Status> {
        let caller = caller(&request);
        let uri = parse_uri(&request.into_inner().uri)?;
        let address = self.backend.get_tunnel_address(&caller, &uri).await?;
        Ok(Response::new(v1::GetTunnelAddressResponse { address: address.to_string() }))
    }

    async fn close_tunnel(
        &self,
        request: Request<v1::CloseTunnelRequest>,
    ) -> Result<Response<v1::CloseTunnelResponse>, Status> {
        use v1::close_tunnel_request::Tunnel;
        let caller = caller(&request);
        let tunnel = match request.into_inner().tunnel {
            Some(Tunnel::Uri(uri)) => TunnelRef::Uri(parse_uri(&uri)?),
            Some(Tunnel::Id(id)) => TunnelRef::Id(parse("id", &id)?),
            Some(Tunnel::Name(name)) => TunnelRef::Name(parse("name", &name)?),
            None => return Err(TunnelError::invalid("tunnel", "say which one: set uri, id or name").into()),
        };
        self.backend.close_tunnel(&caller, &tunnel).await?;
        Ok(Response::new(v1::CloseTunnelResponse {}))
    }

    async fn list_tunnels(
        &self,
        request: Request<v1::ListTunnelsRequest>,
    ) -> Result<Response<v1::ListTunnelsResponse>, Status> {
        let caller = caller(&request);
        let page = page(&request.into_inner())?;
        let tunnels = self.backend.list_tunnels(&caller, &page).await?;
        let next_page_token = match tunnels.last() {
            Some(last) if tunnels.len() >= page.limit => last.id.to_string(),
            _ => String::new(),
        };
        let tunnels = tunnels.into_iter().map(convert::tunnel_info).collect();
        Ok(Response::new(v1::ListTunnelsResponse { tunnels, next_page_token }))
    }

    type WatchTunnelsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTunnelsResponse, Status>> + Send>>;

    async fn watch_tunnels(
        &self,
        request: Request<v1::WatchTunnelsRequest>,
    ) -> Result<Response<Self::WatchTunnelsStream>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let filter = WatchFilter {
            id: optional("id", &request.id)?,
            name: optional("name", &request.name)?,
            requests: request.requests,
            no_clients: request.no_clients,
        };
        let events = self.backend.watch_tunnels(&caller, &filter).await?;
        Ok(Response::new(events.map(|event| Ok(convert::event(event?))).boxed()))
    }
}

fn caller<T>(request: &Request<T>) -> Caller {
    let extensions = request.extensions();
    if let Some(caller) = extensions.get::<Caller>() {
        return caller.clone();
    }
    if let Some(addrs) = extensions.get::<ConnectionAddrs>() {
        return Caller::connected(*addrs);
    }
    Caller { peer_addr: request.remote_addr(), local_addr: request.local_addr(), ..Caller::embedded() }
}

fn parse_uri(text: &str) -> Result<TunnelUri, TunnelError> {
    text.parse().map_err(|error: crate::TunnelUriError| TunnelError::invalid("uri", error.to_string()))
}

fn parse<T: FromStr<Err = NameError>>(field: &'static str, text: &str) -> Result<T, TunnelError> {
    text.parse().map_err(|error: NameError| TunnelError::invalid(field, error.to_string()))
}

fn optional<T: FromStr<Err = NameError>>(field: &'static str, text: &str) -> Result<Option<T>, TunnelError> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

fn page(request: &v1::ListTunnelsRequest) -> Result<Page, TunnelError> {
    let limit = match request.page_size {
        0 => DEFAULT_PAGE,
        size => (size as usize).min(Page::MAX),
    };
    let after = optional("page_token", &request.page_token)
        .map_err(|_| TunnelError::invalid("page_token", "send the next_page_token of the page before, or nothing"))?;
    Ok(Page { after, limit })
}

const DEFAULT_PAGE: usize = 100;
