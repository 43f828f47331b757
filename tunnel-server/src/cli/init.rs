//! `tunnel-server init`: a config that works as it is written, and the command that uses it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, absolute},
};

use anyhow::{Context, bail};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use tunnel_api::{Host, tls::Fingerprint};
use tunnel_server::{
    Config,
    auth::edit::{self, NewToken},
};

use super::args::Init;
use tunnel_server::private;

pub(crate) fn run(init: &Init) -> anyhow::Result<()> {
    let host = init.host.as_deref().map(str::parse::<Host>).transpose().context("--host")?;
    let has_certificate = init.self_signed || init.certificate.is_some();
    if host.is_some() && !has_certificate {
        bail!(
            "a server that others can reach needs a certificate: add --self-signed, or --certificate FILE --key FILE \
             (behind a proxy that ends TLS write tls_terminated_by into the config instead)"
        );
    }
    let directory = &init.directory;
    let config_path = directory.join("tunnel-server.toml");
    let config = config(init, host.as_ref())?;
    let parsed = Config::parse(&config, &config_path)?;
    // What somebody else made may be wrong; what we make is not there yet.
    if init.certificate.is_some() {
        Config { credentials: None, ..parsed }.check_files()?;
    }
    fs::create_dir_all(directory).with_context(|| format!("{}: cannot be made", directory.display()))?;
    let files = ["tunnel-server.toml", "credentials.toml", "cert.pem", "key.pem"].map(str::to_owned);
    let token_file = format!("{}.token", init.name);
    if let Some(there) = files.iter().chain([&token_file]).map(|name| directory.join(name)).find(|path| path.exists()) {
        bail!("{} is there already; nothing was written (choose another directory)", there.display());
    }

    let fingerprint = init.self_signed.then(|| self_sign(directory, host.as_ref())).transpose()?;
    private::create(&config_path, config.as_bytes()).with_context(|| said(&config_path))?;
    private::create_directory(&directory.join("state")).context("state: cannot be made")?;
    let everybody = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network"));
    let wanted = NewToken {
        owner: init.name.clone(),
        backends: vec!["*".to_owned()],
        ports: vec!["1-65535".to_owned()],
        hosts: vec!["*".to_owned()],
        dial_from: everybody.to_vec(),
        clients: everybody.to_vec(),
        ..NewToken::default()
    };
    let (_, token) = edit::add(&directory.join("credentials.toml"), &wanted)?;
    let token_path = directory.join(&token_file);
    private::create(&token_path, format!("{}\n", token.expose()).as_bytes()).with_context(|| said(&token_path))?;

    eprintln!("wrote {}", config_path.display());
    eprintln!("start the server:   tunnel-server --config {}", config_path.display());
    eprintln!("and on an agent's machine, with a copy of {}:", token_path.display());
    println!("{}", agent_command(&Config::from_file(&config_path)?, host.as_ref(), &token_path, fingerprint));
    Ok(())
}

fn said(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}

/// What an agent needs to reach this server.
fn agent_command(config: &Config, host: Option<&Host>, token: &Path, fingerprint: Option<Fingerprint>) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    // An address has no names below it.
    let kind = if host.is_some_and(|host| host.ip().is_some()) { "tcp" } else { "http" };
    let host = host.map_or_else(|| loopback(config.listen).to_string(), ToString::to_string);
    let port = config.listen.port();
    let mut command = format!("tunnel {kind} 3000 --server {scheme}://{host}:{port} --token-file {}", token.display());
    if let Some(fingerprint) = fingerprint {
        command.push_str(&format!(" --fingerprint {fingerprint}"));
    }
    command
}

fn loopback(listen: SocketAddr) -> Host {
    match listen.ip() {
        ip if !ip.is_unspecified() => ip.into(),
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST).into(),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST).into(),
    }
}

/// Good for the host and the names below it, and for this machine itself.
fn self_sign(directory: &Path, host: Option<&Host>) -> anyhow::Result<Fingerprint> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params
        .subject_alt_names
        .extend([SanType::IpAddress(Ipv4Addr::LOCALHOST.into()), SanType::IpAddress(Ipv6Addr::LOCALHOST.into())]);
    if let Some(host) = host {
        match host.ip() {
            Some(ip) => params.subject_alt_names.push(SanType::IpAddress(ip)),
            None => {
                for name in [host.to_string(), format!("*.{host}")] {
                    params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
                }
            }
        }
    }
    let name = host.map_or_else(|| "tunnel-server".to_owned(), ToString::to_string);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let (cert_path, key_path) = (directory.join("cert.pem"), directory.join("key.pem"));
    private::create(&key_path, key.serialize_pem().as_bytes()).with_context(|| said(&key_path))?;
    private::create(&cert_path, certificate.pem().as_bytes()).with_context(|| said(&cert_path))?;
    Ok(Fingerprint::of(certificate.der()))
}

fn config(init: &Init, host: Option<&Host>) -> anyhow::Result<String> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8010));
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, 8010));
    let listen = init.listen.unwrap_or(if host.is_some() { any } else { own });
    let mut text = format!(
        "# Written by `tunnel-server init`. Every key is explained in tunnel-server.example.toml; `tunnel-server check` checks.\n\n\
         listen = \"{listen}\"\n\
         credentials = \"credentials.toml\"\n\
         state = \"state\"\n\
         default_backend = \"mux\"\n"
    );
    let files = match (&init.certificate, &init.key) {
        (Some(certificate), Some(key)) => Some((quoted(&absolute(certificate)?)?, quoted(&absolute(key)?)?)),
        _ if init.self_signed => Some(("\"cert.pem\"".to_owned(), "\"key.pem\"".to_owned())),
        _ => None,
    };
    if let Some((certificate, key)) = files {
        text.push_str(&format!("\n[tls]\ncertificate = {certificate}\nkey = {key}\n"));
    }
    if let Some(host) = host {
        text.push_str(&format!("\n[advertise]\nagents = \"{host}\"\nclients = \"{host}\"\n"));
        if host.ip().is_none() {
            text.push_str(&format!(
                "\n# `tunnel http 3000 --name blog` is https://blog.{host}:{}/. It takes a DNS record for *.{host}, and for\n\
                 # browsers a certificate for it that they trust.\n[names]\ndomain = \"{host}\"\n",
                listen.port()
            ));
        }
    }
    Ok(text)
}

fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| format!("{}: not UTF-8", path.display()))?;
    Ok(toml_edit::value(text).to_string().trim().to_owned())
}
