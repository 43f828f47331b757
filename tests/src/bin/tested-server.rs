//! A server in a process of its own, so that what it uses can be read and bounded: `tested-server CONFIG` prints where it
//! listens, and for each line on its stdin how many tasks it has. It stops when its stdin ends.

use std::path::PathBuf;

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    runtime::Handle,
};
use tunnel_backends::process;
use tunnel_server::{Config, Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: PathBuf = std::env::args_os().nth(1).context("which config?")?.into();
    process::raise_descriptor_limit();
    let server = Server::start(Config::from_file(&config)?).await?;
    println!("{}", server.addr());
    let mut questions = BufReader::new(stdin()).lines();
    while questions.next_line().await?.is_some() {
        println!("{}", Handle::current().metrics().num_alive_tasks());
    }
    server.shutdown().await;
    Ok(())
}
