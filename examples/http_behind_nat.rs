//! A web service that nobody can connect to, reached at a public address: `cargo run --example http_behind_nat`.
//!
//! It starts a tunnel server of its own, opens a tunnel over real gRPC, and serves an axum app through it. With
//! `--server URL` it uses a running server; with `--once` it makes the request itself and exits.

use anyhow::Context;
use axum::{Router, extract::ConnectInfo, routing::get};
use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tunnel_agent::{Agent, AgentState, Peer, Tunnel};
use tunnel_server::{Config, Running, Server};

#[derive(Debug, Parser)]
struct Args {
    /// Use the tunnel server at this URL instead of one in this process
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Use this one of the server's backends instead of its default one
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Make one request, print the answer and exit
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let args = Args::parse();

    // 1. A tunnel server. Usually it runs elsewhere, where clients can reach it.
    let own_server = match args.server {
        Some(_) => None,
        None => Some(Server::start(Config::local()).await?),
    };
    let server = args.server.or(own_server.as_ref().map(Running::url)).context("there is a server")?;

    // 2. A tunnel, asked for by gRPC. The listener dials out and takes the clients that come through.
    let mut wanted = Tunnel::tcp();
    if let Some(backend) = args.backend {
        wanted = wanted.backend(backend);
    }
    let tunnel = Agent::connect(&server).await?.open(wanted).await?;
    let url = tunnel.address().to_http();

    // 3. The service, with the tunnel in the place of a TcpListener.
    let app = Router::new().route("/", get(hello)).into_make_service_with_connect_info::<Peer>();
    let mut state = tunnel.state();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(tunnel, app).with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());

    if args.once {
        print!("{}", fetch(&url).await?);
    } else {
        println!("Public at   {url}\nTry         curl {url}/\nStop        Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }

    // 4. Requests under way are answered, then the tunnel closes by itself.
    drop(stop);
    serving.await??;
    state.wait_for(|state| *state == AgentState::Closed).await?;
    Ok(())
}

async fn hello(ConnectInfo(peer): ConnectInfo<Peer>) -> String {
    format!("Hello, {}, from behind NAT.\n", peer.client_addr)
}

async fn fetch(url: &str) -> anyhow::Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<axum::body::Bytes>>();
    let answer = client.get(url.parse()?).await?;
    anyhow::ensure!(answer.status().is_success(), "{url} answered {}", answer.status());
    Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?)
}
