//! `tunnel tcp` in one's own program: `cargo run --example forward`.
//!
//! It makes a local service public that knows nothing of tunnels, says how the tunnel stands and counts what goes through.
//! The service is a page of its own, or with `--to TARGET` any other. It starts a tunnel server of its own; with `--server
//! URL` it uses a running one. With `--once` it makes a request itself and exits.

use std::{convert::Infallible, time::Duration};

use anyhow::Context;
use axum::{Router, routing::get};
use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::interval,
};
use tunnel_agent::{Agent, AgentState, ForwardCounts, ForwardMeter, Forwarding, Target, Tunnel};
use tunnel_server::{Config, Running, Server};

#[derive(Debug, Parser)]
struct Args {
    /// The service to make public, such as 127.0.0.1:3000 or unix:/run/app.sock; a page of our own if left out
    #[arg(long, value_name = "TARGET")]
    to: Option<Target>,
    /// Use the tunnel server at this URL instead of one in this process
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Use this one of the server's backends instead of its default one
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Make one HTTP request, print the answer and exit
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let args = Args::parse();

    // 1. A tunnel server, and a tunnel.
    let own_server = match args.server {
        Some(_) => None,
        None => Some(Server::start(Config::local()).await?),
    };
    let server = args.server.or(own_server.as_ref().map(Running::url)).context("there is a server")?;
    let mut wanted = Tunnel::tcp();
    if let Some(backend) = args.backend {
        wanted = wanted.backend(backend);
    }
    let mut tunnel = Agent::connect(&server).await?.open(wanted).await?;

    // 2. Where clients go. `with_proxy_header` would tell the service who they are.
    let target = match args.to {
        Some(target) => target,
        None => page().await?,
    };
    println!("{} -> {target}", tunnel.address());
    let forwarding = Forwarding::to(target);

    // 3. Forward, and tell, until we are asked to stop.
    let (address, state, meter) = (tunnel.address().clone(), tunnel.state(), forwarding.meter());
    let until_we_stop = async {
        if args.once {
            print!("{}", fetch(&address.authority()).await?);
        } else {
            println!("Try         curl {}/\nStop        Ctrl-C", address.to_http());
            tokio::signal::ctrl_c().await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = tunnel.forward(forwarding) => anyhow::bail!("the tunnel was closed by somebody else"),
        never = tell(state, &meter) => match never? {},
        end = until_we_stop => end?,
    }

    // 4. Clients that are still there are cut off; dropping the tunnel instead would let them finish.
    tunnel.leave().await;
    println!("{}", words(&meter.read()));
    Ok(())
}

/// Says when the tunnel goes away and comes back, and once a second what has moved.
async fn tell(mut state: watch::Receiver<AgentState>, meter: &ForwardMeter) -> anyhow::Result<Infallible> {
    let (mut told, mut seconds) = (ForwardCounts::default(), interval(Duration::from_secs(1)));
    loop {
        tokio::select! {
            changed = state.changed() => {
                changed?;
                println!("{:?}", *state.borrow_and_update());
            }
            _ = seconds.tick() => {
                let counts = meter.read();
                if counts != told {
                    println!("{}", words(&counts));
                    told = counts;
                }
            }
        }
    }
}

fn words(counts: &ForwardCounts) -> String {
    let ForwardCounts { clients, clients_now, bytes_to_service, bytes_to_clients, .. } = *counts;
    format!("clients: {clients} in all, {clients_now} now; bytes: {bytes_to_service} in, {bytes_to_clients} out")
}

/// A service that knows nothing of tunnels.
async fn page() -> anyhow::Result<Target> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let app = Router::new().route("/", get(async || "Hello from a service that knows nothing of tunnels.\n"));
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(addr.into())
}

async fn fetch(address: &str) -> anyhow::Result<String> {
    let (mut client, mut answer) = (TcpStream::connect(address).await?, String::new());
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    client.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP came, but {answer:?}"))?;
    anyhow::ensure!(head.split(' ').nth(1) == Some("200"), "{address} answered {head}");
    Ok(body.to_owned())
}
