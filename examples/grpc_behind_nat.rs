//! A gRPC service that nobody can connect to, reached at a public address: `cargo run --example grpc_behind_nat`.
//!
//! It starts a tunnel server of its own, opens a tunnel, and serves a tonic service through it. With `--server URL` it uses a
//! running server; with `--once` it makes the call itself and exits.

use anyhow::Context;
use clap::Parser;
use greeter::{
    GreetRequest, GreetResponse,
    greeter_client::GreeterClient,
    greeter_server::{Greeter, GreeterServer},
};
use tonic::{Request, Response, Status};
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
    /// Make one call, print the answer and exit
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
    let tunnel = Agent::connect(&server).await?.open(wanted).await?;
    let (address, url) = (tunnel.address().authority(), tunnel.address().to_http());

    // 2. The service, with the tunnel in the place of a TcpIncoming. Reflection is for grpcurl.
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic::include_file_descriptor_set!("greeter"))
        .build_v1()?;
    let mut state = tunnel.state();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tonic::transport::Server::builder()
        .add_service(GreeterServer::new(Hello))
        .add_service(reflection)
        .serve_with_incoming_shutdown(tunnel, async { drop(stopped.await) });
    let serving = tokio::spawn(serving);

    if args.once {
        println!("{}", greet(url).await?);
    } else {
        println!("Public at   {address}");
        println!("Try         grpcurl -plaintext -d '{{\"name\": \"you\"}}' {address} greeter.v1.Greeter/Greet");
        println!("Stop        Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }

    // 3. Calls under way are answered, then the tunnel closes by itself.
    drop(stop);
    serving.await??;
    state.wait_for(|state| *state == AgentState::Closed).await?;
    Ok(())
}

struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        // The client's own address, not that of the tunnel server.
        let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("not through a tunnel"))?;
        let client_addr = peer.client_addr;
        let greeting = format!("Hello, {} at {client_addr}, from behind NAT.", request.get_ref().name);
        Ok(Response::new(GreetResponse { greeting }))
    }
}

async fn greet(url: String) -> anyhow::Result<String> {
    let mut client = GreeterClient::connect(url).await?;
    let answer = client.greet(GreetRequest { name: "you".to_owned() }).await?;
    Ok(answer.into_inner().greeting)
}

/// Generated from `greeter.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod greeter {
    tonic::include_proto!("greeter.v1");
}
