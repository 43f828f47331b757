//! A server in a process of its own, so that what it uses can be read and bounded: `tested-server CONFIG` prints where it
//! listens, and stops when its stdin ends.

use std::path::PathBuf;

use anyhow::Context;
use tokio::io::AsyncReadExt;
use tunnel_backends::process;
use tunnel_server::{Config, Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: PathBuf = std::env::args_os().nth(1).context("which config?")?.into();
    process::raise_descriptor_limit();
    let server = Server::start(Config::from_file(&config)?).await?;
    println!("{}", server.addr());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    server.shutdown().await;
    Ok(())
}
