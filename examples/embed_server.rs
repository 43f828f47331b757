//! A tunnel server inside one's own program: `cargo run --example embed_server`.
//!
//! The program opens a tunnel of its own without any RPC, and prints who comes and goes on all of them. Agents elsewhere can
//! open theirs by RPC at the same time. With `--once` it is its own client, and exits.

use std::time::Duration;

use clap::Parser;
use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tunnel_agent::{Agent, Tunnel, TunnelListener};
use tunnel_api::{Caller, TunnelEvents, WatchFilter, What};
use tunnel_server::{Config, Server};

#[derive(Debug, Parser)]
struct Args {
    /// Use this one of the server's backends instead of its default one
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Connect once, print what comes and exit
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let args = Args::parse();

    // 1. The server. Its config is a struct; `Config::from_file` reads one from TOML.
    let config = Config { drain: Duration::from_secs(5), ..Config::local() };
    let server = Server::start(config).await?;

    // 2. What happens to all tunnels, told as it happens.
    let events = server.backend().watch_tunnels(&Caller::embedded(), &WatchFilter::default()).await?;
    let watching = tokio::spawn(watch(events));

    // 3. A tunnel of our own. Nothing but the dial-in goes over the network, and that over loopback.
    let mut wanted = Tunnel::tcp().label("of", "the server itself");
    if let Some(backend) = args.backend {
        wanted = wanted.backend(backend);
    }
    let mut tunnel = Agent::embedded(server.backend()).open(wanted).await?;

    let (address, url) = (tunnel.address().clone(), server.url());
    let until_we_stop = async {
        if args.once {
            print!("{}", read_all(&address.authority()).await?);
        } else {
            println!("Public at   {address}");
            println!("Try         nc {} {}", address.host(), address.port());
            println!("And         cargo run -p tunnel-agent --bin tunnel -- tcp 3000 --server {url}");
            println!("Stop        Ctrl-C");
            tokio::signal::ctrl_c().await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = greet(&mut tunnel) => anyhow::bail!("the tunnel was closed by somebody else"),
        end = until_we_stop => end?,
    }

    // 4. Our own tunnel first. Then everybody else's: their clients have until `drain` is over. The news ends.
    tunnel.leave().await;
    server.shutdown().await;
    watching.await?;
    Ok(())
}

/// Greets every client, until the tunnel is closed.
async fn greet(tunnel: &mut TunnelListener) {
    while let Ok(mut client) = tunnel.accept().await {
        tokio::spawn(async move {
            client.write_all(format!("Hello, {}.\n", client.client_addr()).as_bytes()).await?;
            client.shutdown().await
        });
    }
}

async fn watch(mut events: TunnelEvents) {
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(end) => return eprintln!("no more news: {end}"),
        };
        let tunnel = event.tunnel.as_ref().map_or("-", |id| id.as_str());
        match event.what {
            What::Opened(info) => eprintln!("{tunnel}  opened on {} {:?}", info.backend, info.labels),
            What::AgentConnected { agent, .. } => eprintln!("{tunnel}  agent {agent} dialled in"),
            What::ClientConnected { client, .. } => eprintln!("{tunnel}  client {client} came"),
            What::ClientEnded { client, end, bytes_to_client, .. } => {
                eprintln!("{tunnel}  client {client} went after {bytes_to_client} bytes: {end:?}");
            }
            What::Closed { reason } => eprintln!("{tunnel}  closed: {reason:?}"),
            _ => {}
        }
    }
}

async fn read_all(address: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    TcpStream::connect(address).await?.read_to_string(&mut text).await?;
    anyhow::ensure!(!text.is_empty(), "{address} ended without a word");
    Ok(text)
}
