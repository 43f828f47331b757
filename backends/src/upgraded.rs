//! Which answer to a wish for an upgrade grants it, where the wish is an extended CONNECT. The server has to know, and the agent says.

use http::{HeaderName, Response};

/// Whether an extended CONNECT that was answered so has become a connection. Success says that it has; but where HTTP/1.1 has a 101
/// and a 200, which is what most services answer that do not know of upgrades, HTTP/2 has one and the same. So our agents mark the
/// latter.
pub fn is_connection<T>(answer: &Response<T>) -> bool {
    answer.status().is_success() && !answer.headers().contains_key(NOT_UPGRADED)
}

/// In an answer with success to an extended CONNECT: it is one to the request without its wish for an upgrade.
pub(crate) const NOT_UPGRADED: HeaderName = HeaderName::from_static("tunnel-not-upgraded");
