//! `tunnel-server`: see `--help`.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tunnel_backends::process::{self, StopSignals};
use tunnel_server::{Config, Running, Server, StartError};

/// Runs tunnels: programs behind NAT ask for one by gRPC and are reached at a public address.
///
/// Without a config it listens on 127.0.0.1:8010 and serves this machine only.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The config file (see tunnel-server.example.toml)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen here instead of where the config says
    #[arg(short, long, value_name = "IP:PORT", value_parser = socket_addr)]
    listen: Option<SocketAddr>,
    /// Run without TLS and credentials even where others can connect
    #[arg(long)]
    insecure: bool,
    /// How to log (what to log is set by RUST_LOG, such as RUST_LOG=debug)
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a config file and exit: 0 if it is fine, 78 if not
    Check {
        /// The config file
        file: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn socket_addr(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:8010 or [::1]:8010")
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Check { file }) = &args.command {
        return check(file);
    }
    log(args.log_format);
    process::raise_descriptor_limit();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel-server: {error:#}");
            exit_code(&error)
        }
    }
}

fn check(file: &Path) -> ExitCode {
    match Config::from_file(file).map_err(StartError::from).and_then(|config| Ok(config.check_files()?)) {
        Ok(()) => {
            println!("{}: fine", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tunnel-server: {:#}", anyhow::Error::from(error));
            ExitCode::from(BAD_CONFIG)
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut config = match &args.config {
        Some(file) => Config::from_file(file).map_err(StartError::from)?,
        None => Config::default(),
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.insecure |= args.insecure;
    let mut signals = StopSignals::catch()?;
    let server = Server::start(config).await?;
    greet(&server);
    signals.next().await;
    tracing::info!("stopping: running streams may end; a second signal ends them at once");
    tokio::select! {
        () = server.shutdown() => {}
        () = signals.next() => {}
    }
    Ok(())
}

fn greet(server: &Running) {
    let url = server.url();
    eprintln!("tunnel-server listens on {}", server.addr());
    eprintln!("  try   tunnel tcp 127.0.0.1:3000 --server {url}");
    let plain = url.strip_prefix("http://");
    let (flag, host) = (if plain.is_some() { "-plaintext " } else { "" }, plain.unwrap_or(&url));
    let host = host.trim_start_matches("https://");
    eprintln!("  or    grpcurl {flag}-d '{{}}' {host} tunnel.v1.Tunnel/OpenTunnel");
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
        }
        LogFormat::Json => log.json().init(),
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<StartError>() {
        Some(StartError::Config(_) | StartError::NoDefault(_) | StartError::Tls(_)) => ExitCode::from(BAD_CONFIG),
        _ => ExitCode::FAILURE,
    }
}

/// sysexits.h: EX_CONFIG.
const BAD_CONFIG: u8 = 78;
