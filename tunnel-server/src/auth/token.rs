use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

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
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The hash of a token, as it stands in the credentials file. Compared in constant time.
#[derive(Debug, Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// Not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write sha256: and 64 hexadecimal digits, as `tunnel-server token new` does")]
pub struct HashError;

impl TokenHash {
    /// The SHA-256 of these bytes, such as a certificate's.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl FromStr for TokenHash {
    type Err = HashError;

    /// With or without colons, as openssl prints fingerprints with them.
    fn from_str(text: &str) -> Result<Self, HashError> {
        let hex = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("sha256:")).map(|_| &text[7..]);
        let digits: Vec<u32> =
            hex.ok_or(HashError)?.chars().filter(|c| *c != ':').map_while(|c| c.to_digit(16)).collect();
        let plain_length = text[7..].chars().filter(|c| *c != ':').count();
        if digits.len() != 64 || plain_length != 64 {
            return Err(HashError);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
    fn a_hash_is_read_as_it_is_written_and_as_openssl_writes_it() {
        let hash = Token::generate().hash();
        let text = hash.to_string();
        assert_eq!(text.parse(), Ok(hash));
        assert_eq!(text.to_uppercase().parse(), Ok(hash));
        let digits: Vec<_> = text.as_bytes()[7..].chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        assert_eq!(format!("SHA256:{}", digits.join(":")).parse(), Ok(hash));
        for wrong in
            ["", "sha256:", &text[..70], &format!("{text}0"), "sha512:00", &text.replace("sha256:", ""), "sha256:ü"]
        {
            assert_eq!(wrong.parse::<TokenHash>(), Err(HashError), "{wrong}");
        }
    }
}
