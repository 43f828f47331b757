//! A chat that nobody can connect to, at a public name: `cargo run --example websocket_chat`, and open the URL twice.
//!
//! It starts a tunnel server of its own and answers what comes through a tunnel with an axum app: a page, and WebSockets. With
//! `--server URL` it uses a running server; with `--once` it chats with itself and exits.

use std::net::Ipv4Addr;

use anyhow::Context;
use axum::{
    Router,
    extract::{
        ConnectInfo, State, WebSocketUpgrade,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    response::{Html, IntoResponse},
    routing::get,
};
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, sync::broadcast};
use tunnel_agent::{Agent, Peer, PublicAddress, Tunnel};
use tunnel_server::{Config, Running, Server};

#[derive(Debug, Parser)]
struct Args {
    /// Use the tunnel server at this URL instead of one in this process
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Use this one of the server's backends instead of its default one
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Say something, hear it and exit
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

    // 2. The app, as it would be without tunnels.
    let room = broadcast::Sender::<Utf8Bytes>::new(100);
    let app = Router::new().route("/", get(async || Html(PAGE))).route("/chat", get(enter)).with_state(room);

    // 3. A tunnel at a name, answered by the app.
    let mut wanted = Tunnel::http().host("chat");
    if let Some(backend) = args.backend {
        wanted = wanted.backend(backend);
    }
    let served = Agent::connect(&server).await?.serve(wanted, app).await?;

    if args.once {
        println!("{}", chat(served.address()).await?);
    } else {
        println!("Open        {}\nStop        Ctrl-C", served.address());
        tokio::select! {
            () = served.closed() => anyhow::bail!("the tunnel was closed by somebody else"),
            stopped = tokio::signal::ctrl_c() => stopped?,
        }
    }
    served.close().await;
    Ok(())
}

async fn enter(
    upgrade: WebSocketUpgrade,
    ConnectInfo(peer): ConnectInfo<Peer>,
    State(room): State<broadcast::Sender<Utf8Bytes>>,
) -> impl IntoResponse {
    upgrade.max_message_size(4096).on_upgrade(move |socket| talk(socket, peer, room))
}

/// Says what is said in the room, and the other way round. Who does not listen misses the oldest words.
async fn talk(mut socket: WebSocket, peer: Peer, room: broadcast::Sender<Utf8Bytes>) {
    let mut others = room.subscribe();
    loop {
        tokio::select! {
            said = socket.recv() => match said {
                Some(Ok(Message::Text(words))) => drop(room.send(format!("{}: {words}", peer.client_addr).into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            heard = others.recv() => if let Ok(words) = heard && socket.send(Message::Text(words)).await.is_err() {
                return;
            },
        }
    }
}

/// What one client says and hears.
async fn chat(address: &PublicAddress) -> anyhow::Result<String> {
    // Not every resolver knows that names in `localhost` are this machine's.
    let socket = match address.host().is_loopback() {
        true => TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await?,
        false => TcpStream::connect(address.authority()).await?,
    };
    let (mut client, _) = tokio_tungstenite::client_async(format!("ws://{}/chat", address.authority()), socket).await?;
    client.send("Hello from outside.".into()).await?;
    Ok(client.next().await.context("the chat is over")??.into_text()?.to_string())
}

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>Chat</title>
<style>body{font:16px system-ui;max-width:40em;margin:2em auto}input{width:100%;font:inherit}</style>
<form><input autofocus autocomplete="off" placeholder="Say something"></form><ul></ul><script>
const socket = new WebSocket(location.href.replace(/^http/, 'ws').replace(/[^/]*$/, 'chat'));
const line = (words) => document.querySelector('ul').prepend(Object.assign(document.createElement('li'), { textContent: words }));
socket.onmessage = (message) => line(message.data);
socket.onclose = () => line('(the chat is over)');
document.forms[0].onsubmit = (event) => {
  event.preventDefault();
  const input = document.querySelector('input');
  socket.send(input.value);
  input.value = '';
};
</script>
"#;
