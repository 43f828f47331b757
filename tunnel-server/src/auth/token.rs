use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;
use tunnel_api::tls::Fingerprint;

/// A bearer token: 256 random bits, as whoever presents it has them. Never printed but by [`expose`](Self::expose).
pub struct Token(String);

impl Token {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Self {
        let secret = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self(format!("{PREFIX}{secret}"))
    }

    /// What was presented, whatever it is.
    pub(super) fn presented(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the server keeps of it. A fast hash is enough for 256 random bits: there is nothing to guess.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Fingerprint::of(self.0.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The hash of a token, as it stands in the credentials file. Compared in constant time.
#[derive(Debug, Clone, Copy)]
pub struct TokenHash(Fingerprint);

/// Not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write sha256: and 64 hexadecimal digits, as `tunnel-server token new` does")]
pub struct HashError;

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for TokenHash {}

impl FromStr for TokenHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        text.parse().map(Self).map_err(|_| HashError)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Says what it is to whoever finds it in the wrong place.
const PREFIX: &str = "tnl_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_256_bits_that_are_not_printed() {
        let (one, other) = (Token::generate(), Token::generate());
        assert_eq!(one.expose().len(), PREFIX.len() + 43);
        assert_ne!(one.expose(), other.expose());
        assert_eq!(format!("{one:?}"), "Token(…)");
    }

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = Token::generate().hash();
        let text = hash.to_string();
        assert_eq!(text.parse(), Ok(hash));
        for wrong in ["", "sha256:", &text[..70], &format!("{text}0"), "sha512:00", &text.replace("sha256:", "")] {
            assert_eq!(wrong.parse::<TokenHash>(), Err(HashError), "{wrong}");
        }
    }
}
