use std::{sync::Arc, time::SystemTime};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tunnel_api::{Caller, ConnectionAddrs, TunnelError};
use tunnel_backends::door::{Newcomer, PeerCertificate};

use super::{Credential, Credentials, Keyring, Token};

/// Finds out who makes a request, and says so to whoever answers it; or refuses it. Without a keyring everybody is welcome.
pub(crate) async fn identify(
    State(keyring): State<Option<Arc<Keyring>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(keyring) = keyring else {
        accept(&request);
        return next.run(request).await;
    };
    if is_open_to_all(&request) {
        return next.run(request).await;
    }
    // The door says of every request where it came from.
    let Some(addrs) = request.extensions().get::<ConnectionAddrs>().copied() else { return refusal(&request) };
    let credentials = keyring.credentials();
    let certificate = request.extensions().get::<PeerCertificate>().map(|PeerCertificate(der)| &**der);
    let Ok(credential) = Presented::by(request.headers(), certificate).find(&credentials, SystemTime::now()) else {
        return refusal(&request);
    };
    accept(&request);
    let (owner, credential) = (credential.owner.clone(), Some(credential.id.clone()));
    request.extensions_mut().insert(Caller { owner, credential, ..Caller::connected(addrs) });
    next.run(request).await
}

/// Its connection is one of somebody we serve, and is kept.
fn accept(request: &Request) {
    if let Some(newcomer) = request.extensions().get::<Newcomer>() {
        newcomer.accept();
    }
}

/// A page that says what this is, and whether it is well: load balancers have no credentials.
fn is_open_to_all(request: &Request) -> bool {
    let path = request.uri().path();
    path == "/" || path.starts_with("/grpc.health.v1.Health/")
}

/// What a request shows of who makes it.
#[derive(Debug)]
struct Presented<'r> {
    tokens: Vec<Option<Token>>,
    certificate: Option<&'r [u8]>,
}

/// Nobody whom we know, or several at once: always the same answer.
#[derive(Debug, PartialEq, Eq)]
struct Unknown;

impl<'r> Presented<'r> {
    fn by(headers: &HeaderMap, certificate: Option<&'r [u8]>) -> Self {
        let tokens = headers.get_all(header::AUTHORIZATION).iter().map(bearer).collect();
        Self { tokens, certificate }
    }

    /// Whatever is shown has to be good, and all of it one owner's: what is forged is not made up for by what is not.
    fn find<'c>(&self, credentials: &'c Credentials, now: SystemTime) -> Result<&'c Credential, Unknown> {
        let by_token = match &self.tokens[..] {
            [] => None,
            [Some(token)] => Some(credentials.by_token(token, now).ok_or(Unknown)?),
            _ => return Err(Unknown),
        };
        // A certificate that our CA signed and the file does not know may be there for other reasons, as in a service mesh.
        let by_certificate = self.certificate.and_then(|certificate| credentials.by_certificate(certificate, now));
        match (by_token, by_certificate) {
            (Some(token), Some(certificate)) if token.owner != certificate.owner => Err(Unknown),
            (Some(credential), _) | (None, Some(credential)) => Ok(credential),
            (None, None) => Err(Unknown),
        }
    }
}

fn bearer(value: &HeaderValue) -> Option<Token> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Token::presented(token.trim()))
}

fn refusal(request: &Request) -> Response {
    let error = TunnelError::Unauthenticated { why: WHY.to_owned() };
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::from(error).into_http();
    }
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], format!("{error}\n")).into_response()
}

const WHY: &str = "no valid credentials came with this call: send `authorization: Bearer <token>` \
                   (tunnel --token-file FILE, or TNL_TOKEN_FILE); the operator makes tokens with `tunnel-server token new`";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn one_good_token_is_somebody_and_anything_else_is_nobody() {
        let (alice, bob) = (Token::generate(), Token::generate());
        let entry =
            |id: &str, token: &Token| format!("[[token]]\nid = '{id}'\nowner = '{id}'\nhash = '{}'\n", token.hash());
        let text = entry("alice", &alice) + &entry("bob", &bob);
        let credentials = Credentials::parse(&text, Path::new("c.toml")).unwrap();
        let (alice, bob) = (&*format!("Bearer {}", alice.expose()), &*format!("Bearer {}", bob.expose()));
        let owner = |values: &[&str]| {
            let found = Presented::by(&headers(values), None).find(&credentials, SystemTime::now());
            found.map(|credential| credential.owner.to_string())
        };
        assert_eq!(owner(&[alice]).as_deref(), Ok("alice"));
        assert_eq!(owner(&[&bob.replace("Bearer", "bearer")]).as_deref(), Ok("bob"));
        for wrong in [
            &[][..],
            &[alice, bob],
            &[alice, alice],
            &[alice, "Basic YTpi"],
            &["Basic YTpi"],
            &["Bearer"],
            &["Bearer "],
            &[&alice.replace("Bearer ", "")],
            &[&alice.replace("Bearer", "Basic")],
            &[&format!("{alice}x")],
            &[&alice[..alice.len() - 1]],
            &[&format!("{alice}, {bob}")],
        ] {
            assert_eq!(owner(wrong), Err(Unknown), "{wrong:?}");
        }
    }
}
