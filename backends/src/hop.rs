//! What a head says about the connection that it came on, and what therefore stays there (RFC 9110, 7.6.1).

use http::{
    HeaderMap, HeaderName,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

/// Takes it out, and says whether trailers are welcome, which `TE` has to say anew to the next one.
pub fn strip(headers: &mut HeaderMap) -> bool {
    // Looking once at each name there is costs less than asking for each of these.
    if !headers.keys().any(is_of_a_hop) {
        return false;
    }
    let takes_trailers = has_token(headers, &TE, "trailers");
    let named = tokens(headers, &CONNECTION).filter(|name| !is_no_other_field(name));
    let named: Vec<HeaderName> = named.filter_map(|name| name.parse().ok()).collect();
    // What says whose the request is and how long is no hop's, whoever says so.
    for name in named.iter().filter(|name| **name != HOST && **name != CONTENT_LENGTH).chain(&OF_A_HOP) {
        headers.remove(name);
    }
    takes_trailers
}

/// Whether it is among the members of this field.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|other| other.eq_ignore_ascii_case(token))
}

/// The members of a field that is a list.
pub fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> + use<'h> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn is_of_a_hop(name: &HeaderName) -> bool {
    OF_A_HOP.contains(name)
}

/// Whether what `Connection` names is no field, or one of those that stay here anyway: that is what is said there nearly always.
fn is_no_other_field(name: &str) -> bool {
    ["close", "keep-alive", "upgrade", "te"].iter().any(|said| name.eq_ignore_ascii_case(said))
}

const OF_A_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];
