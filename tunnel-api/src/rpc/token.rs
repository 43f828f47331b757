use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

/// Where a caller's token comes from. It is never printed.
#[derive(Clone)]
pub struct Token(Source);

#[derive(Clone)]
enum Source {
    /// As it goes out.
    Value(MetadataValue<Ascii>),
    File(PathBuf),
}

/// Why there is no token. It never repeats one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file is not there, or not for us to read.
    #[error("the token file {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has something else in it.
    #[error("the file {} has no token in it; it must be one line, the token", path.display())]
    NoToken {
        /// Which file.
        path: PathBuf,
    },
    /// The text is something else.
    #[error("not a token: it must be one word of ASCII")]
    Malformed,
}

impl Token {
    /// This one.
    pub fn value(text: &str) -> Result<Self, TokenError> {
        Ok(Self(Source::Value(bearer(text).ok_or(TokenError::Malformed)?)))
    }

    /// The one in this file. It is read again at each call, so that it can be replaced while we run.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// Fails where there is no token now.
    pub fn check(&self) -> Result<(), TokenError> {
        self.header().map(drop)
    }

    fn header(&self) -> Result<MetadataValue<Ascii>, TokenError> {
        match &self.0 {
            Source::Value(value) => Ok(value.clone()),
            Source::File(path) => {
                let text = read(path).map_err(|source| TokenError::Unreadable { path: path.clone(), source })?;
                bearer(&text).ok_or_else(|| TokenError::NoToken { path: path.clone() })
            }
        }
    }
}

/// No more of the file than a token may have.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn bearer(text: &str) -> Option<MetadataValue<Ascii>> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Value(_) => f.write_str("Token(…)"),
            Source::File(path) => f.debug_tuple("Token").field(path).finish(),
        }
    }
}

/// Puts the token on each call.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials(pub(super) Option<Token>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            // It may be about to be replaced: whoever calls again later finds the new one.
            let value = token.header().map_err(|error| Status::unavailable(error.to_string()))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// In bytes.
const LONGEST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_not_shown() {
        let token = Token::value(" s3cret\n").unwrap();
        assert_eq!(token.header().unwrap(), "Bearer s3cret");
        assert!(!format!("{token:?}{:?}", token.header()).contains("s3cret"));
        for text in ["", " \n", "s3cret word", "s3cr\u{e9}t", "s3\ncret"] {
            let refused = Token::value(text).unwrap_err();
            assert!(!format!("{refused} {refused:?}").contains("s3"), "{text}");
        }
    }

    #[test]
    fn a_token_file_is_read_at_each_call() {
        let path = std::env::temp_dir().join(format!("tunnel-token-{}", std::process::id()));
        let token = Token::file(&path);
        assert!(token.check().unwrap_err().to_string().contains("cannot be read"));
        for text in ["one\n", "two\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(token.header().unwrap(), format!("Bearer {}", text.trim()));
        }
        fs::write(&path, "\n").unwrap();
        assert!(token.check().unwrap_err().to_string().contains("has no token"));
        fs::remove_file(&path).unwrap();
    }
}
