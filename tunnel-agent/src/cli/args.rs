use std::{net::IpAddr, num::NonZeroU16};

use clap::{Args as Flags, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use clap_complete::Shell;
use ipnet::IpNet;
use tunnel_agent::{HostHeader, Target, TargetError};
use tunnel_api::TunnelName;

use super::server::Server;

/// Makes a local service reachable from outside, through a tunnel server.
#[derive(Debug, Parser)]
#[command(name = "tunnel", version, after_help = NOTES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) loudness: Loudness,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a local web service public until Ctrl-C, print its URL, and show the requests as they happen
    #[command(override_usage = "tunnel http [OPTIONS] <TARGET>", after_help = HTTP_EXAMPLES)]
    Http(Http),
    /// Make a local TLS service public until Ctrl-C, by name and without decrypting, and print its public address
    #[command(override_usage = "tunnel tls [OPTIONS] <TARGET>", after_help = TLS_EXAMPLES)]
    Tls(Tls),
    /// Make a local TCP service public until Ctrl-C, and print its public address
    #[command(override_usage = "tunnel tcp [OPTIONS] <TARGET>", after_help = TCP_EXAMPLES)]
    Tcp(Tcp),
    /// List your tunnels
    #[command(visible_alias = "ls", after_help = LIST_NOTES)]
    List(List),
    /// Print what happens to your tunnels, as it happens, until Ctrl-C
    #[command(after_help = WATCH_NOTES)]
    Watch(Watch),
    /// Close a tunnel: its address is free at once and its clients are cut off
    #[command(override_usage = "tunnel close [OPTIONS] <NAME|ID|->", after_help = CLOSE_EXAMPLES)]
    Close(Close),
    /// Print a script that completes this command's arguments in your shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Flags)]
pub(crate) struct Tcp {
    /// The local service: PORT on this machine, HOST:PORT, or unix:/path/to.sock
    pub(crate) target: Target,
    /// The public port; the server chooses one if left out
    #[arg(long, value_parser = port, env = "TNL_PORT", hide_env_values = true)]
    pub(crate) port: Option<NonZeroU16>,
    /// Tell the local service each client's address, by a PROXY v2 header before its bytes (the service must expect it)
    #[arg(long, value_parser = BoolishValueParser::new(), env = "TNL_PROXY_PROTOCOL", hide_env_values = true)]
    pub(crate) proxy_protocol: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
}

#[derive(Debug, Flags)]
pub(crate) struct Tls {
    /// The local service, which has the certificate: PORT on this machine, HOST:PORT, or unix:/path/to.sock
    pub(crate) target: Target,
    /// The public host name, such as db or db.example.com; the tunnel's name, or else one of the server's choice, if left out
    #[arg(long, env = "TNL_HOST", hide_env_values = true)]
    pub(crate) host: Option<String>,
    /// Tell the local service each client's address, by a PROXY v2 header before its bytes (the service must expect it)
    #[arg(long, value_parser = BoolishValueParser::new(), env = "TNL_PROXY_PROTOCOL", hide_env_values = true)]
    pub(crate) proxy_protocol: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
}

#[derive(Debug, Flags)]
pub(crate) struct Http {
    /// The local service: PORT on this machine, HOST:PORT, http://HOST:PORT, or unix:/path/to.sock
    #[arg(value_parser = web_service)]
    pub(crate) target: Target,
    /// The public host name, such as blog or blog.example.com; the tunnel's name, or else one of the server's choice, if left out
    #[arg(long, env = "TNL_HOST", hide_env_values = true)]
    pub(crate) host: Option<String>,
    /// Which Host the local service sees: this one, or `rewrite` for its own; the one the client asked for if left out
    #[arg(long, value_name = "HOST|rewrite", value_parser = host_header, default_value = "", hide_default_value = true,
          env = "TNL_HOST_HEADER", hide_env_values = true)]
    pub(crate) host_header: HostHeader,
    /// Speak HTTP/2 without TLS (h2c) with the local service; gRPC does anyway
    #[arg(long, value_parser = BoolishValueParser::new(), env = "TNL_H2C", hide_env_values = true)]
    pub(crate) h2c: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
}

/// What all tunnels have.
#[derive(Debug, Flags)]
pub(crate) struct Opening {
    /// Your own name for the tunnel: it keeps its address for a day after you are gone
    #[arg(long, env = "TNL_NAME", hide_env_values = true)]
    pub(crate) name: Option<TunnelName>,
    /// Which of the server's backends runs the tunnel; its default one if left out
    #[arg(long, value_name = "NAME", env = "TNL_BACKEND", hide_env_values = true)]
    pub(crate) backend: Option<String>,
    /// How many connections to keep to the server, where each carries many clients (mux); several carry more where packets
    /// are lost on a long path
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64), default_value_t = 1)]
    pub(crate) sessions: u8,
    /// Let clients of this network in and no others: CIDR, or one address; may be given several times
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub(crate) allow: Vec<IpNet>,
    /// Keep clients of this network out, even where --allow lets them in; may be given several times
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub(crate) deny: Vec<IpNet>,
    /// A note that lists and events show; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// What stdout carries: the public address alone, or one JSON object {id, address, name, target}
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "TNL_OUTPUT", hide_env_values = true)]
    pub(crate) output: Output,
}

#[derive(Debug, Flags)]
pub(crate) struct List {
    /// A table, or one JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "TNL_OUTPUT", hide_env_values = true)]
    pub(crate) output: Output,
}

#[derive(Debug, Flags)]
pub(crate) struct Watch {
    /// Only this tunnel; all of yours if left out
    #[arg(value_name = "NAME|ID")]
    pub(crate) tunnel: Option<TunnelName>,
    /// Print each request of clients too, where the address is http or https
    #[arg(long)]
    pub(crate) requests: bool,
    /// Print nothing of clients that come and go
    #[arg(long)]
    pub(crate) no_clients: bool,
    /// One line of text or one JSON object for each event
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "TNL_OUTPUT", hide_env_values = true)]
    pub(crate) output: Output,
}

#[derive(Debug, Flags)]
pub(crate) struct Close {
    /// The tunnel's name or id, or - to read its URI from stdin
    // Not parsed by clap: a refusal would repeat it, and it may be a URI.
    #[arg(value_name = "NAME|ID|-")]
    pub(crate) tunnel: String,
}

/// How much is told on stderr.
#[derive(Debug, Clone, Copy, Flags)]
pub(crate) struct Loudness {
    /// Say more on stderr (RUST_LOG says exactly what to log)
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Say nothing on stderr but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // No doc comments: they would spread every help text out to twice its length.
    Text,
    Json,
}

/// A web service may be named by its URL, as browsers show it; what comes after the port is asked for by clients.
fn web_service(text: &str) -> Result<Target, String> {
    if text.starts_with("https://") {
        return Err("this service speaks TLS itself; make it public by `tunnel tls HOST:PORT`".to_owned());
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return text.parse().map_err(|error: TargetError| error.to_string());
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    target.parse().map_err(|error: TargetError| error.to_string())
}

/// `parse` alone would say that a digit is invalid.
fn port(text: &str) -> Result<NonZeroU16, TargetError> {
    text.parse().map_err(|_| TargetError::BadPort(text.to_owned()))
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "write a network such as 192.0.2.0/24 or 2001:db8::/32, or an address")
}

fn host_header(text: &str) -> Result<HostHeader, &'static str> {
    match text {
        "" => Ok(HostHeader::Asked),
        "rewrite" => Ok(HostHeader::Target),
        host => host.parse().map(HostHeader::Fixed).map_err(|_| "write a host, such as localhost:3000, or `rewrite`"),
    }
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as --label team=web"),
    }
}

const NOTES: &str = "\
Examples:
  tunnel http 3000                           make the web service at 127.0.0.1:3000 public
  tunnel tcp 22 --server https://tunnels.example --token-file ~/.tunnel-token
                                             through the server there
  tunnel list                                what is open
  tunnel close db                            give up the tunnel named db

Environment:
  TNL_*       defaults for the options that name them; empty is as good as unset
  TNL_TOKEN   the token itself, where there is no --token-file; never an argument, which everybody on this machine can see
  NO_COLOR    no colours
  RUST_LOG    what to log on stderr, such as RUST_LOG=debug

Exit codes:
  0   done, or stopped by Ctrl-C
  1   failed: the server refused, the tunnel was closed by somebody else, stdout cannot be written
  2   wrong usage
  69  the tunnel server cannot be reached, or went away while it was watched
  77  the tunnel server refuses the credentials, or they do not grant this
  78  a value in the environment is malformed";

const HTTP_EXAMPLES: &str = "\
Examples:
  tunnel http 3000
  tunnel http 3000 --name blog                at http://blog.localhost:8010/, or wherever the server's names are
  tunnel http 3000 --host-header rewrite      for a service that answers to localhost:3000 only
  tunnel http unix:/run/app.sock --allow 192.0.2.0/24
  tunnel http 50051 --h2c                     for a service that speaks nothing but HTTP/2
  tunnel http 3000 > url.txt &                for scripts: stdout is the URL and nothing else

WebSockets and other upgrades, uploads, server-sent events and gRPC pass through as they are. The service hears who asks in \
X-Forwarded-For and Forwarded. While it does not answer, its clients see a page that says so (502).

Without a name the tunnel closes when the command ends. With one it stays open for a day, the next start gets the same \
URL, and `tunnel close NAME` gives it up.";

const TLS_EXAMPLES: &str = "\
Examples:
  tunnel tls 8443 --name db                   at tls://db.localhost:8010, or wherever the server's names are
  tunnel tls 127.0.0.1:443 --host shop.example.com --name shop
  tunnel tls 5671 --allow 192.0.2.0/24        clients from there and from nowhere else

The server finds the tunnel by the name that a client's TLS begins with (SNI) and passes everything on untouched: the \
certificate, and its key, are the local service's and stay there.

Without a name the tunnel closes when the command ends. With one it stays open for a day, the next start gets the same \
address, and `tunnel close NAME` gives it up.";

const TCP_EXAMPLES: &str = "\
Examples:
  tunnel tcp 22
  tunnel tcp 127.0.0.1:5432 --name db --port 21000
  tunnel tcp unix:/run/app.sock
  tunnel tcp 22 --allow 192.0.2.0/24          clients from there and from nowhere else
  tunnel tcp 3000 > address.txt &             for scripts: stdout is the address and nothing else

Without a name the tunnel closes when the command ends. With one it stays open for a day, the next start gets the same \
address, and `tunnel close NAME` gives it up.";

const LIST_NOTES: &str = "\
SESSIONS are connections of agents that can take a client now, CLIENTS those being served now; IN is what clients have \
sent and OUT what they got. With --output json: one object a line, with the field names of tunnel.proto.";

const WATCH_NOTES: &str = "\
First comes what is open, then `ready`, then the news. It does not reconnect: when the server goes away it ends with 69. \
Of more requests than can be printed as they come some are left out, and counted. With --output json: one object a line, {\"time\", \"id\", \"event\", ...}, with the field names of tunnel.proto.";

const CLOSE_EXAMPLES: &str = "\
Examples:
  tunnel close db
  tunnel close t-288364b108163abc
  tunnel close - < uri.txt

A tunnel's URI is a secret, and arguments can be seen by everybody on this machine: so it goes through stdin.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(tunnel completions bash)          this shell only; add the line to ~/.bashrc to keep it
  tunnel completions zsh > \"${fpath[1]}/_tunnel\"
  tunnel completions fish > ~/.config/fish/completions/tunnel.fish";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_service_may_be_named_by_its_url() {
        for (text, target) in [
            ("3000", "127.0.0.1:3000"),
            ("http://localhost:3000", "localhost:3000"),
            ("http://localhost:3000/", "localhost:3000"),
            ("http://[::1]:3000", "[::1]:3000"),
            ("http://intranet", "intranet:80"),
        ] {
            assert_eq!(web_service(text).map(|target| target.to_string()), Ok(target.to_owned()), "{text}");
        }
        for (text, why) in [("https://localhost:8443", "tunnel tls"), ("http://localhost:3000/app", "")] {
            assert!(web_service(text).is_err_and(|error| error.contains(why)), "{text}");
        }
    }
}
