//! A web service that nobody can connect to, reached at a public name: `cargo run --example http_behind_nat`.
//!
//! It starts a tunnel server of its own, opens a tunnel over real gRPC, and answers what comes through it with an axum app. With
//! `--server URL` it uses a running server; with `--once` it makes the request itself and exits.

use std::net::Ipv4Addr;

use anyhow::Context;
use axum::{Router, extract::ConnectInfo, routing::get};
use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tunnel_agent::{Agent, OpenError, Peer, PublicAddress, Tunnel};
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

    // 2. The service.
    let app = Router::new().route("/", get(hello));

    // 3. A tunnel, asked for by gRPC, that the service answers: at a name, or at a port where the server has no names for us.
    let agent = Agent::connect(&server).await?;
    let on = |tunnel: Tunnel| match &args.backend {
        Some(backend) => tunnel.backend(backend),
        None => tunnel,
    };
    let served = match agent.serve(on(Tunnel::http().host("hello")), app.clone()).await {
        Err(OpenError::Refused(why)) => {
            eprintln!("no name ({why}), so a port");
            agent.serve(on(Tunnel::tcp()), app).await?
        }
        served => served?,
    };

    if args.once {
        print!("{}", fetch(served.address()).await?);
    } else {
        println!("Public at   {url}\nTry         curl {url}\nStop        Ctrl-C", url = served.address().to_http());
        tokio::select! {
            () = served.closed() => anyhow::bail!("the tunnel was closed by somebody else"),
            stopped = tokio::signal::ctrl_c() => stopped?,
        }
    }
    served.close().await;
    Ok(())
}

async fn hello(ConnectInfo(peer): ConnectInfo<Peer>) -> String {
    format!("Hello, {}, from behind NAT.\n", peer.client_addr)
}

async fn fetch(address: &PublicAddress) -> anyhow::Result<String> {
    // Not every resolver knows that names in `localhost` are this machine's.
    let mut client = match address.host().is_loopback() {
        true => TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await?,
        false => TcpStream::connect(address.authority()).await?,
    };
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", address.authority());
    client.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP came, but {answer:?}"))?;
    anyhow::ensure!(head.split(' ').nth(1) == Some("200"), "{address} answered {head}");
    Ok(body.to_owned())
}
