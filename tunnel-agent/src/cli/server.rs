use std::{path::PathBuf, str::FromStr, sync::Arc};

use clap::{Args, builder::BoolishValueParser};
use tunnel_agent::{Agent, ClientCertificate, Fingerprint, Trust, TrustError};
use tunnel_api::{
    Host,
    rpc::{Connect, RemoteBackend, Token},
    tls::ClientTls,
};

use super::failure::Failure;

/// The tunnel server, whom to trust there, and who we are.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// The tunnel server: HOST:PORT, https://HOST:PORT or http://HOST:PORT
    #[arg(long, value_name = "URL", default_value = ServerUrl::DEFAULT, env = "TNL_SERVER", hide_env_values = true)]
    #[arg(global = true)]
    server: ServerUrl,
    /// A file with the token that the server asks for; it is read again at each call
    #[arg(long, value_name = "FILE", env = "TNL_TOKEN_FILE", hide_env_values = true)]
    #[arg(global = true)]
    token_file: Option<PathBuf>,
    /// Trust servers that a certificate in this PEM file vouches for, and no others
    #[arg(long, value_name = "FILE", env = "TNL_CA", hide_env_values = true)]
    #[arg(global = true)]
    ca: Option<PathBuf>,
    /// Trust the server that has this certificate, and no other, whatever --ca says: sha256:HEX
    #[arg(long, value_name = "SHA256", env = "TNL_FINGERPRINT", hide_env_values = true)]
    #[arg(global = true)]
    fingerprint: Option<Fingerprint>,
    /// Show this certificate (PEM) to servers that ask for one
    #[arg(long, value_name = "FILE", env = "TNL_CLIENT_CERT", hide_env_values = true)]
    #[arg(global = true)]
    client_cert: Option<PathBuf>,
    /// The key (PEM) of --client-cert
    #[arg(long, value_name = "FILE", env = "TNL_CLIENT_KEY", hide_env_values = true)]
    #[arg(global = true)]
    client_key: Option<PathBuf>,
    /// Send the token unencrypted where the server's URL is http
    #[arg(long, value_parser = BoolishValueParser::new(), env = "TNL_INSECURE", hide_env_values = true)]
    #[arg(global = true)]
    insecure: bool,
}

impl Server {
    /// For calls.
    pub(crate) async fn connect(&self) -> Result<RemoteBackend, Failure> {
        self.connect_by(self.tls()?).await
    }

    /// For tunnels, which are dialled by the same trust.
    pub(crate) async fn agent(&self) -> Result<Agent, Failure> {
        let tls = self.tls()?;
        Ok(Agent::embedded(Arc::new(self.connect_by(tls.clone()).await?)).with_tls(tls))
    }

    async fn connect_by(&self, tls: ClientTls) -> Result<RemoteBackend, Failure> {
        let mut connect = Connect::to(&self.server.0).tls(tls);
        if let Some(token) = self.token()? {
            connect = connect.token(token);
        }
        if self.insecure {
            connect = connect.insecure();
        }
        Ok(connect.connect().await?)
    }

    fn tls(&self) -> Result<ClientTls, Failure> {
        let trust = match (self.fingerprint, &self.ca) {
            (Some(fingerprint), _) => Trust::fingerprint(fingerprint),
            (None, Some(path)) => Trust::ca_file(path).map_err(failure)?,
            (None, None) => Trust::system(),
        };
        let certificate = match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate::from_files(certificate, key).map_err(failure)?),
            (None, None) => None,
            _ => return Err(Failure::usage("--client-cert and --client-key go together; give both or none")),
        };
        let tls = ClientTls::new(trust, certificate);
        Ok(if self.server.0.starts_with("https://") { tls.demanded() } else { tls })
    }

    /// The value may be in the environment, but has no option: arguments can be seen by everybody on this machine.
    fn token(&self) -> Result<Option<Token>, Failure> {
        if let Some(path) = &self.token_file {
            return Ok(Some(Token::file(path)));
        }
        match std::env::var(TOKEN) {
            Ok(text) if !text.is_empty() => {
                let bad = |error| Failure::environment(format!("{TOKEN} is {error}; change or unset it"));
                Token::value(&text).map(Some).map_err(bad)
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Failure::environment(format!("{TOKEN} is no text; change or unset it")))
            }
            _ => Ok(None),
        }
    }
}

fn failure(error: TrustError) -> Failure {
    Failure::new(format!("{:#}", anyhow::Error::from(error)))
}

const TOKEN: &str = "TNL_TOKEN";

/// Where the tunnel server is: `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl(String);

/// What keeps a text from being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServerUrlError {
    #[error(
        "a tunnel server has an https or http URL; write https://HOST:PORT, or http://HOST:PORT, or just HOST:PORT"
    )]
    OtherScheme,
    #[error("nothing may follow the port; write https://HOST:PORT")]
    Path,
    #[error("write HOST:PORT, such as tunnels.example:8010")]
    Malformed,
}

impl ServerUrl {
    const DEFAULT: &str = "http://127.0.0.1:8010";
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(ServerUrlError::OtherScheme);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(ServerUrlError::Path);
        }
        let (host, port) = split_port(authority)?;
        let host: Host = host.parse().map_err(|_| ServerUrlError::Malformed)?;
        Ok(Self(format!("{scheme}://{host}:{port}")))
    }
}

/// Without a port it is the one that servers listen on unless they are told otherwise.
fn split_port(authority: &str) -> Result<(&str, u16), ServerUrlError> {
    match authority.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => Err(ServerUrlError::Malformed),
        Some((host, port)) if !port.ends_with(']') => {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let port = digits.then(|| port.parse().ok()).flatten().filter(|port| *port > 0);
            Ok((host, port.ok_or(ServerUrlError::Malformed)?))
        }
        _ => Ok((authority, PORT)),
    }
}

const PORT: u16 = 8010;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_and_the_port_may_be_left_out() {
        for (text, whole) in [
            (ServerUrl::DEFAULT, "http://127.0.0.1:8010"),
            ("http://tunnels.example:80/", "http://tunnels.example:80"),
            ("HTTP://tunnels.example:80", "http://tunnels.example:80"),
            ("tunnels.example:9000", "http://tunnels.example:9000"),
            ("tunnels.example", "http://tunnels.example:8010"),
            ("https://tunnels.example", "https://tunnels.example:8010"),
            ("HTTPS://tunnels.example:443/", "https://tunnels.example:443"),
            ("[::1]", "http://[::1]:8010"),
            ("[::1]:9000", "http://[::1]:9000"),
        ] {
            assert_eq!(text.parse(), Ok(ServerUrl(whole.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (text, why) in [
            ("tcp://tunnels.example:1", ServerUrlError::OtherScheme),
            ("http://tunnels.example:80/path", ServerUrlError::Path),
            ("", ServerUrlError::Malformed),
            ("8010", ServerUrlError::Malformed),
            (":8010", ServerUrlError::Malformed),
            ("tunnels.example:port", ServerUrlError::Malformed),
            ("tunnels.example:0", ServerUrlError::Malformed),
            ("me@tunnels.example:1", ServerUrlError::Malformed),
            ("::1:8010", ServerUrlError::Malformed),
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(why), "{text}");
        }
    }
}
