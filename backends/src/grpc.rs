//! Callers of gRPC, as those see them who refuse a call without understanding it.

use http::{HeaderMap, header};

/// The content type of answers to a call, if this is one: of gRPC, or of gRPC-Web in either spelling. A status can be in the head of
/// all of them.
pub(crate) fn answer_type(headers: &HeaderMap) -> Option<&'static str> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let kind = content_type.strip_prefix("application/grpc")?;
    Some(match kind.strip_prefix("-web") {
        None => "application/grpc",
        Some(spelling) if spelling.starts_with("-text") => "application/grpc-web-text+proto",
        Some(_) => "application/grpc-web+proto",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_refused_in_what_it_speaks() {
        for (content_type, answer) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc+proto", Some("application/grpc")),
            ("application/grpc-web", Some("application/grpc-web+proto")),
            ("Application/grpc-web+proto", Some("application/grpc-web+proto")),
            ("application/grpc-web-text", Some("application/grpc-web-text+proto")),
            ("text/plain", None),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(answer_type(&headers), answer, "{content_type}");
        }
    }
}
