use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args as Flags, Parser, Subcommand};
use ipnet::IpNet;
use tunnel_server::{
    config::{AdminListen, Listen},
    log::LogFormat,
};

/// Runs tunnels: programs behind NAT ask for one by gRPC and are reached at a public address.
///
/// Without a config it listens on 127.0.0.1:8010 and serves this machine only. `tunnel-server init` writes a config for others.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Debug, Flags)]
pub(crate) struct Run {
    /// The config file (see tunnel-server.example.toml)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Listen here instead of where the config says; '$PORT' is the port in that environment variable, on all addresses
    #[arg(short, long, value_name = "IP:PORT")]
    pub(crate) listen: Option<Listen>,
    /// Where metrics, health and readiness answer, instead of where the config says
    #[arg(long, value_name = "IP:PORT|off")]
    pub(crate) admin: Option<AdminListen>,
    /// Run without TLS and credentials even where others can connect
    #[arg(long)]
    pub(crate) insecure: bool,
    /// How to log (what to log is set by RUST_LOG, such as RUST_LOG=debug)
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a config file and exit: 0 if it is fine, 78 if not
    Check {
        /// The config file
        file: PathBuf,
    },
    /// Write a config with a fresh token, and say how an agent uses it
    #[command(after_help = INIT_EXAMPLES)]
    Init(Init),
    /// Make tokens, list credentials, take them back
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Flags)]
pub(crate) struct Init {
    /// Where to write it
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// The name or address by which agents and clients reach this server; it then listens on all addresses, which needs a
    /// certificate
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Make a certificate that agents pin by its fingerprint
    #[arg(long, conflicts_with = "certificate")]
    pub(crate) self_signed: bool,
    /// The server's certificate, with its chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Where the server shall listen
    #[arg(long, value_name = "IP:PORT", value_parser = socket_addr)]
    pub(crate) listen: Option<SocketAddr>,
    /// Whose the token is
    #[arg(long, value_name = "OWNER", default_value = "admin")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it; it cannot be shown again
    #[command(after_help = NEW_EXAMPLES)]
    New(New),
    /// Show whose credentials there are; tokens themselves are not kept
    List {
        #[command(flatten)]
        file: CredentialsFile,
    },
    /// Take credentials back: what they opened is closed within seconds
    #[command(
        after_help = "Examples:\n  tunnel-server token revoke k-1f2e3d4c\n  tunnel-server token revoke --name alice"
    )]
    Revoke {
        /// The credential's id
        #[arg(required_unless_present = "name", conflicts_with = "name")]
        id: Option<String>,
        /// All credentials of this owner
        #[arg(long, value_name = "OWNER")]
        name: Option<String>,
        #[command(flatten)]
        file: CredentialsFile,
    },
}

/// Which credentials file is meant.
#[derive(Debug, Flags)]
pub(crate) struct CredentialsFile {
    /// The credentials file; by default the one that ./tunnel-server.toml names, or else ./credentials.toml
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) file: Option<PathBuf>,
    /// The config that names it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Flags)]
pub(crate) struct New {
    /// Whose it is: tunnels belong to owners, who see only their own
    #[arg(long, value_name = "OWNER")]
    pub(crate) name: String,
    /// Backends it may use, by name or pattern
    #[arg(long = "backend", value_name = "NAME", default_value = "*")]
    pub(crate) backends: Vec<String>,
    /// Public ports that it may ask for by number, such as 21000-21099; none if left out, and the server chooses
    #[arg(long = "port", value_name = "PORTS")]
    pub(crate) ports: Vec<String>,
    /// Host names that it may ask for, such as '*.alice.example'; none if left out
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// Networks from which it may have others dial in (dial_from); none if left out
    #[arg(long = "dial-from", value_name = "CIDR")]
    pub(crate) dial_from: Vec<IpNet>,
    /// Networks whose clients its tunnels may serve
    #[arg(long = "clients", value_name = "CIDR", default_values = ["0.0.0.0/0", "::/0"])]
    pub(crate) clients: Vec<IpNet>,
    /// What its owner is held to, where that is not limits.owner of the config: such as tunnels=5 or
    /// bytes_per_second_to_clients=10MiB
    #[arg(long = "limit", value_name = "KEY=VALUE", value_parser = limit)]
    pub(crate) limits: Vec<(String, String)>,
    /// How long it is good, such as 90d
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) expires: Option<Duration>,
    /// Write the token to this new file, which only you can read, instead of to stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) file: CredentialsFile,
}

fn socket_addr(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:8010 or [::1]:8010")
}

fn expiry(text: &str) -> Result<Duration, &'static str> {
    let time = humantime::parse_duration(text).map_err(|_| "write a time such as 90d or 12h")?;
    if time.is_zero() { Err("that would be over already; write a time such as 90d or 12h") } else { Ok(time) }
}

fn limit(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as --limit tunnels=5")?;
    Ok((key.to_owned(), value.to_owned()))
}

const INIT_EXAMPLES: &str = "\
Examples:
  tunnel-server init                                              this machine only, with a token
  tunnel-server init /etc/tunnel-server --host tunnels.example --self-signed
  tunnel-server init --host tunnels.example --certificate fullchain.pem --key privkey.pem

It writes tunnel-server.toml, credentials.toml, OWNER.token, the directory state and, if asked, cert.pem and key.pem; it \
never writes over a file.";

const NEW_EXAMPLES: &str = "\
Examples:
  tunnel-server token new --name alice > alice.token
  tunnel-server token new --name ci --backend mux --port 21000-21099 --expires 90d --output ci.token";
