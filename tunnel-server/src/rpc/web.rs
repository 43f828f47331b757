//! gRPC-Web: the same calls where HTTP/2 or its trailers do not get through, as in browsers and behind some proxies.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt, service_fn};

/// Makes gRPC of a gRPC-Web call for whoever answers it or refuses it, and gRPC-Web of what they say.
pub(super) async fn translate(mut request: Request, next: Next) -> Response {
    let Some(spoken) = spoken(request.headers()) else { return next.run(request).await };
    let Ok(asked) = spoken else {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "of gRPC-Web there is +proto, as such or as -text\n")
            .into_response();
    };
    let answered = answered(request.headers(), asked);
    // tonic-web knows these words only as they are spelled here.
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(asked.content_type()));
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(answered.content_type()));
    // What the call would have come by.
    *request.version_mut() = Version::HTTP_2;
    let inner = service_fn(move |request: Request<tonic::body::Body>| {
        let next = next.clone();
        async move { Ok::<_, Infallible>(next.run(request.map(Body::new)).await) }
    });
    let Ok(response) = GrpcWebLayer::new().layer(inner).oneshot(request).await;
    let mut response = response.map(Body::new);
    // nginx would keep the events of a watch until it has a few kilobytes of them.
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// How messages are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Binary,
    /// As base64.
    Text,
}

impl Spelling {
    fn content_type(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        }
    }
}

/// A spelling that is none of ours.
#[derive(Debug, PartialEq, Eq)]
struct Foreign;

/// If it is gRPC-Web at all.
fn spoken(headers: &HeaderMap) -> Option<Result<Spelling, Foreign>> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    match kind.strip_prefix(GRPC_WEB)? {
        "" | "+proto" => Some(Ok(Spelling::Binary)),
        "-text" | "-text+proto" => Some(Ok(Spelling::Text)),
        _ => Some(Err(Foreign)),
    }
}

/// As the caller asks for it, or as it asked.
fn answered(headers: &HeaderMap, asked: Spelling) -> Spelling {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match accept.to_ascii_lowercase().split_once(GRPC_WEB) {
        Some((_, rest)) if rest.starts_with("-text") => Spelling::Text,
        Some(_) => Spelling::Binary,
        None => asked,
    }
}

const GRPC_WEB: &str = "application/grpc-web";

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spelling_is_known_whatever_case_and_parameters_it_comes_with() {
        let spoken = |text: &str| spoken(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]));
        for text in ["application/grpc-web", "application/grpc-web+proto", "Application/gRPC-Web; charset=utf-8"] {
            assert_eq!(spoken(text), Some(Ok(Spelling::Binary)), "{text}");
        }
        for text in ["application/grpc-web-text", "application/grpc-web-text+proto"] {
            assert_eq!(spoken(text), Some(Ok(Spelling::Text)), "{text}");
        }
        for text in ["application/grpc-web+json", "application/grpc-web-text+thrift", "application/grpc-webs"] {
            assert_eq!(spoken(text), Some(Err(Foreign)), "{text}");
        }
        for text in ["application/grpc", "application/grpc+proto", "text/plain", "x; application/grpc-web"] {
            assert_eq!(spoken(text), None, "{text}");
        }
    }

    #[test]
    fn the_answer_is_spelled_as_is_accepted_or_as_the_call_was() {
        let answered =
            |text: &str, asked| answered(&HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())]), asked);
        assert_eq!(answered("application/grpc-web-text", Spelling::Binary), Spelling::Text);
        assert_eq!(answered("*/*, application/grpc-web+proto", Spelling::Text), Spelling::Binary);
        for asked in [Spelling::Binary, Spelling::Text] {
            assert_eq!(answered("*/*", asked), asked);
        }
    }
}
