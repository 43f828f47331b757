use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use tower::{ServiceExt, service_fn};
use tunnel_api::ConnectionAddrs;
use tunnel_backends::door::{HttpBody, HttpService};

use super::Audit;
use crate::rpc::ForeignPage;

impl Audit {
    /// Tells of requests at the door that nobody whom we know makes, whoever refuses them: calls without good credentials or
    /// from web pages elsewhere, and agents that are not let in.
    pub(crate) fn at_the_door(self: Arc<Self>, http: HttpService) -> HttpService {
        HttpService::new(service_fn(move |request: http::Request<Incoming>| {
            let (audit, http) = (self.clone(), http.clone());
            async move {
                let is_dial_in = request.uri().path().starts_with(PTTH);
                let peer = request.extensions().get::<ConnectionAddrs>().map(|addrs| addrs.peer);
                let response: http::Response<HttpBody> = http.oneshot(request).await?;
                let what = if is_dial_in { "dial_in" } else { "call" };
                let is_foreign_page = response.extensions().get::<ForeignPage>().is_some();
                let reason = match is_foreign_page {
                    true => Some("FOREIGN_PAGE"),
                    false => refusal(response.status(), response.headers(), is_dial_in),
                };
                if let Some(reason) = reason {
                    audit.nobody(what, reason, peer);
                }
                Ok(response)
            }
        }))
    }
}

fn refusal(status: StatusCode, headers: &HeaderMap, is_dial_in: bool) -> Option<&'static str> {
    let is_unauthenticated = headers.get("grpc-status").is_some_and(|code| code == UNAUTHENTICATED);
    match status {
        StatusCode::UNAUTHORIZED => Some("UNAUTHENTICATED"),
        _ if is_unauthenticated => Some("UNAUTHENTICATED"),
        StatusCode::TOO_MANY_REQUESTS if is_dial_in => Some("LIMIT_REACHED"),
        StatusCode::SERVICE_UNAVAILABLE if is_dial_in => Some("UNAVAILABLE"),
        _ if is_dial_in && status.is_client_error() => Some("INVALID"),
        _ => None,
    }
}

/// Where agents come in (docs/ptth.md).
const PTTH: &str = "/.well-known/ptth/";

/// As a gRPC status.
const UNAUTHENTICATED: &str = "16";
