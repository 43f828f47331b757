//! What answers at the one port: the service, reflection, health, and a page for those who come with a browser. Calls are gRPC, or
//! gRPC-Web, which `web` makes gRPC of before anybody else looks at them.

mod pages;
mod web;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::ServiceBuilder;
use tunnel_api::{
    TunnelBackend,
    rpc::{FILE_DESCRIPTOR_SET, SERVICE_NAME, TunnelService},
};
use tunnel_backends::door::{HttpBody, HttpService};

use crate::auth::{Keyring, identify};

pub(crate) use pages::{ForeignPage, OwnHosts};

/// Everything that answers, and the lever that says whether it is healthy. With a keyring it answers those whom it knows.
pub(crate) async fn build(
    backend: impl TunnelBackend,
    keyring: Option<Arc<Keyring>>,
    own: OwnHosts,
) -> (HttpService, Health) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let health_lever = Health(reporter);
    health_lever.set(ServingStatus::Serving).await;

    let routes = Routes::new(TunnelService::new(backend).into_server())
        // tonic would take 4 MiB, here from anybody.
        .add_service(health.max_decoding_message_size(QUESTION))
        .add_service(reflection().build_v1().expect(SOUND).max_decoding_message_size(QUESTION))
        .add_service(reflection().build_v1alpha().expect(SOUND).max_decoding_message_size(QUESTION));
    let router = routes
        .into_axum_router()
        .route_layer(middleware::from_fn(only_grpc))
        .route("/", get(page))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(keyring, identify))
        .layer(middleware::from_fn(guard))
        .layer(middleware::from_fn(web::translate))
        .layer(middleware::from_fn_with_state(own, pages::keep_out));
    let service = ServiceBuilder::new().map_response(|response: Response| response.map(body)).service(router);
    (HttpService::new(service), health_lever)
}

/// What health checks are told.
pub(crate) struct Health(HealthReporter);

impl Health {
    pub(crate) async fn set(&self, status: ServingStatus) {
        for service in ["", SERVICE_NAME] {
            self.0.set_service_status(service, status).await;
        }
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn body(body: axum::body::Body) -> HttpBody {
    HttpBody::new(body.map_err(Into::into))
}

/// gRPC needs HTTP/2, and a call that does not come to its point must not be held for ever. (A watch comes to its point at
/// once; what it streams afterwards is not timed.)
async fn guard(request: Request, next: Next) -> Response {
    let is_grpc = is_grpc(&request);
    if is_grpc && request.version() < Version::HTTP_2 {
        return (
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "gRPC needs HTTP/2, which without TLS is h2c by prior knowledge; gRPC-Web does not\n",
        )
            .into_response();
    }
    match tokio::time::timeout(CALL, next.run(request)).await {
        Ok(response) => response,
        Err(_) if is_grpc => tonic::Status::deadline_exceeded("the request did not arrive in time").into_http(),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

/// A browser sends any other content to any server, for whichever page asks it to, and shows its client certificate there: this one
/// it does not send without asking us first. (tonic does not look.)
async fn only_grpc(request: Request, next: Next) -> Response {
    if is_grpc(&request) {
        return next.run(request).await;
    }
    let what = "a call is gRPC or gRPC-Web, with content-type: application/grpc or application/grpc-web\n";
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, what).into_response()
}

fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let begins = |value: &[u8]| value.get(..GRPC.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(GRPC));
    content_type.is_some_and(|value| begins(value.as_bytes()))
}

async fn page() -> &'static str {
    "This is a tunnel server. Programs behind NAT open tunnels here by gRPC, service tunnel.v1.Tunnel:\n\
     \n\
     \x20   tunnel http 3000 --server http://HOST:PORT\n\
     \x20   grpcurl -plaintext -d '{}' HOST:PORT tunnel.v1.Tunnel/OpenTunnel\n"
}

async fn nothing_here(request: Request) -> Response {
    if request.version() >= Version::HTTP_2 && is_grpc(&request) {
        return tonic::Status::unimplemented("no such service or method; ask reflection for what there is").into_http();
    }
    (StatusCode::NOT_FOUND, "Nothing here. This is a tunnel server; see / for how to use it.\n").into_response()
}

/// What the content types of gRPC begin with, and those of gRPC-Web.
const GRPC: &[u8] = b"application/grpc";

const CALL: Duration = Duration::from_secs(30);

/// A message to health or reflection: names, in bytes.
const QUESTION: usize = 1024;

const SOUND: &str = "our own descriptors are sound";
