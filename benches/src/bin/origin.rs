//! The service that everything leads to, as a process of its own. Prints where it listens.

use std::net::SocketAddr;

use clap::Parser;
use tunnel_benches::origin;

/// Sends, swallows, echoes and answers; the first byte of a connection says which.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen; the kernel chooses the port if it is 0
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tunnel_backends::process::raise_descriptor_limit();
    origin::serve(args.listen, |addr| println!("{addr}")).await?;
    Ok(())
}
