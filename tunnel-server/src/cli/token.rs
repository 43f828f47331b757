//! `tunnel-server token`: what it makes and takes back stands in the credentials file, which a running server follows.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tunnel_server::{
    Config,
    auth::{
        Credentials,
        edit::{self, NewToken, Which},
    },
};

use super::args::{self, CredentialsFile, Token};
use tunnel_server::private;

pub(crate) fn run(command: &Token) -> anyhow::Result<()> {
    match command {
        Token::New(new) => make(new),
        Token::List { file } => list(file),
        Token::Revoke { id, name, file } => {
            let which = match (id, name) {
                (Some(id), _) => Which::Id(id.clone()),
                (None, name) => Which::Owner(name.clone().unwrap_or_default()),
            };
            let file = file.path()?;
            for id in edit::remove(&file, &which)? {
                eprintln!("revoked {id}; a running server closes what it opened within seconds");
            }
            Ok(())
        }
    }
}

fn make(new: &args::New) -> anyhow::Result<()> {
    let file = new.file.path()?;
    let wanted = NewToken {
        owner: new.name.clone(),
        backends: new.backends.clone(),
        ports: new.ports.clone(),
        hosts: new.hosts.clone(),
        dial_from: new.dial_from.clone(),
        clients: new.clients.clone(),
        limits: new.limits.clone(),
        expires_in: new.expires,
    };
    if let Some(output) = new.output.as_deref().filter(|output| output.exists()) {
        anyhow::bail!("{} is there already; name another file", output.display());
    }
    let (id, token) = edit::add(&file, &wanted)?;
    match &new.output {
        Some(output) => private::create(output, format!("{}\n", token.expose()).as_bytes())
            .with_context(|| format!("{}: cannot be written", output.display()))?,
        None => println!("{}", token.expose()),
    }
    eprintln!("{id} for {} in {}; the token cannot be shown again", new.name, file.display());
    Ok(())
}

fn list(file: &CredentialsFile) -> anyhow::Result<()> {
    let credentials = Credentials::from_file(&file.path()?)?;
    println!("{:<12} {:<16} {:<12} EXPIRES", "ID", "OWNER", "KIND");
    for credential in credentials.iter() {
        let expires = match credential.expires() {
            Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
            None => "-".to_owned(),
        };
        let (id, owner) = (credential.id().as_str(), credential.owner().as_str());
        println!("{id:<12} {owner:<16} {:<12} {expires}", credential.kind());
    }
    Ok(())
}

impl CredentialsFile {
    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let here = Path::new("tunnel-server.toml");
        let named = match &self.config {
            Some(config) => Some(config.as_path()),
            None if here.exists() => Some(here),
            None => None,
        };
        let Some(config) = named else { return Ok("credentials.toml".into()) };
        let credentials = Config::from_file(config)?.credentials;
        credentials.with_context(|| {
            format!("{}: it names no credentials file; add credentials = \"credentials.toml\"", config.display())
        })
    }
}
