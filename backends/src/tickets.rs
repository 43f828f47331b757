//! The secrets in tunnel URIs.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tunnel_api::TunnelId;

/// Issues the tickets of a server's tunnels and checks them: each is a MAC of its tunnel's id, so that none has to be stored
/// and the same tunnel always has the same one.
#[derive(Clone)]
pub struct Tickets {
    key: [u8; 32],
}

impl Tickets {
    /// With a key of our own. Tickets are good for as long as it lives.
    pub fn new() -> Self {
        Self::with_key(rand::random())
    }

    /// With this key, which is a secret.
    pub fn with_key(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The ticket for a tunnel: 43 characters that need no escaping in a URI.
    pub fn issue(&self, tunnel: &TunnelId) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.mac(tunnel).finalize().into_bytes())
    }

    /// Whether this is it. Takes the same time for all that are not.
    pub fn admits(&self, tunnel: &TunnelId, ticket: &str) -> bool {
        let ticket = BASE64_URL_SAFE_NO_PAD.decode(ticket).unwrap_or_default();
        self.mac(tunnel).verify_slice(&ticket).is_ok()
    }

    fn mac(&self, tunnel: &TunnelId) -> Hmac<Sha256> {
        // A key of any length will do.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key");
        mac.update(tunnel.as_str().as_bytes());
        mac.update(&GENERATION.to_be_bytes());
        mac
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// Another number would revoke what was issued before. Ids are never used twice, so the first one does.
const GENERATION: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TunnelId {
        text.parse().unwrap()
    }

    #[test]
    fn a_ticket_opens_its_own_tunnel_and_no_other() {
        let tickets = Tickets::new();
        let ticket = tickets.issue(&id("t-1"));
        assert_eq!(ticket, tickets.issue(&id("t-1")));
        assert!(tickets.admits(&id("t-1"), &ticket));
        assert!(!tickets.admits(&id("t-2"), &ticket));
        assert!(!Tickets::new().admits(&id("t-1"), &ticket));
        for other in ["", "x", &ticket[1..], &format!("{ticket}A"), &ticket.to_lowercase(), "ü"] {
            assert!(!tickets.admits(&id("t-1"), other), "{other}");
        }
    }
}
