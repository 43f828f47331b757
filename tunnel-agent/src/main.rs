//! `tunnel`: see `--help`.

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tunnel_agent::{Agent, ConnectError, Tunnel};
use tunnel_backends::process::{self, StopSignals};

/// Makes a local service reachable from outside, through a tunnel server.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Forward a public TCP port to a local service until Ctrl-C; stdout carries the public address alone
    Tcp {
        /// The local service: HOST:PORT, or PORT on this machine
        #[arg(value_parser = target)]
        target: String,
        /// The tunnel server
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8010")]
        server: String,
        /// Which of the server's backends; its default one if left out
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
        /// Your own name for the tunnel: it keeps its address for a day after you are gone
        #[arg(long)]
        name: Option<String>,
        /// The public port; the server chooses one if left out
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    log();
    process::raise_descriptor_limit();
    match run(args.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel: {error:#}");
            let unreachable = error.downcast_ref::<ConnectError>();
            ExitCode::from(if matches!(unreachable, Some(ConnectError::Unreachable { .. })) { UNREACHABLE } else { 1 })
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Tcp { target, server, backend, name, port } = command;
    let mut tunnel = Tunnel::tcp().port(port.unwrap_or(0));
    if let Some(backend) = backend {
        tunnel = tunnel.backend(backend);
    }
    if let Some(name) = name {
        tunnel = tunnel.name(name);
    }
    let mut signals = StopSignals::catch()?;
    let mut listener = Agent::connect(&server).await?.open(tunnel).await?;
    println!("{}", listener.address());
    eprintln!("forwarding {} to {target} (Ctrl-C to stop)", listener.address());
    tokio::select! {
        _ = listener.forward_to(target) => anyhow::bail!("the tunnel was closed by somebody else"),
        () = signals.next() => {}
    }
    // Closes the tunnel, or leaves it to our next start if it has a name; clients that are cut off see a reset.
    listener.leave().await;
    Ok(())
}

/// A bare port means this machine.
fn target(text: &str) -> Result<String, String> {
    if text.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(format!("127.0.0.1:{text}"));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, such as 127.0.0.1:3000, or just PORT".to_owned()),
    }
}

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}

/// sysexits.h: EX_UNAVAILABLE.
const UNREACHABLE: u8 = 69;
