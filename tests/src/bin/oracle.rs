//! `oracle`: see `--help`.

use std::{collections::BTreeMap, fs, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpStream;
use tunnel_agent::{Agent, Tunnel};
use tunnel_server::{Config, Server};
use tunnel_tests::oracle::{Oracle, Orders};

/// Plays connections through a tunnel, tags every byte, ends streams in every way, and exits with 1 if a side saw what it
/// should not.
///
/// Without --through it starts a server and an agent of its own. With it, it uses those that run elsewhere:
///
///   tunnel-server &  tunnel tcp 127.0.0.1:9000 &  oracle --through 127.0.0.1:20000 --origin 127.0.0.1:9000
#[derive(Debug, Parser)]
struct Args {
    /// The public address of a tunnel that leads to --origin
    #[arg(long, value_name = "HOST:PORT", requires = "origin")]
    through: Option<SocketAddr>,
    /// Where the origin listens
    #[arg(long, value_name = "HOST:PORT")]
    origin: Option<SocketAddr>,
    /// How many connections
    #[arg(long, default_value_t = 2000)]
    connections: u64,
    /// How many of them at once; all if left out
    #[arg(long)]
    concurrency: Option<usize>,
    /// All connections are made before any goes on
    #[arg(long, conflicts_with = "concurrency")]
    together: bool,
    /// The most bytes one way
    #[arg(long, default_value_t = 3 << 20)]
    largest: u64,
    /// What the plans are made of
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many times, with another seed each time
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// How long one connection may take, in seconds
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Many small connections, 64 at once unless --concurrency says more; what --pid's processes hold open is counted before
    /// and after, and must be the same
    #[arg(long)]
    churn: bool,
    /// The server's and the agent's process id, for --churn; this process if left out
    #[arg(long)]
    pid: Vec<u32>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    tunnel_backends::process::raise_descriptor_limit();
    let origin = args.origin.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut orders = args.orders();
    let oracle = Oracle::listen(orders.clone(), origin)?;
    let origin = oracle.origin()?;

    let (public, _own) = match args.through {
        Some(public) => (public, None),
        None => {
            let server = Server::start(Config::local()).await?;
            let mut tunnel = Agent::connect(&server.url()).await?.open(Tunnel::tcp()).await?;
            let public = tunnel.address().authority().parse()?;
            tokio::spawn(async move { tunnel.forward_to(origin.to_string()).await });
            (public, Some(server))
        }
    };
    drop(oracle);

    if args.churn {
        return churn(&args, orders, origin, public).await;
    }
    let mut exit = ExitCode::SUCCESS;
    for _ in 0..args.rounds {
        let verdict = Oracle::listen(orders.clone(), origin)?.run(public).await;
        println!("seed {}\n{verdict}", orders.seed);
        if !verdict.is_clean() {
            exit = ExitCode::FAILURE;
        }
        orders.seed += 1;
    }
    Ok(exit)
}

impl Args {
    fn orders(&self) -> Orders {
        let (concurrency, largest) =
            if self.churn { (64, self.largest.min(2_000)) } else { (usize::MAX >> 4, self.largest) };
        Orders {
            connections: self.connections,
            concurrency: self.concurrency.unwrap_or(concurrency),
            together: self.together,
            largest,
            seed: self.seed,
            limit: Duration::from_secs(self.limit),
        }
    }
}

async fn churn(args: &Args, orders: Orders, origin: SocketAddr, public: SocketAddr) -> anyhow::Result<ExitCode> {
    let pids = if args.pid.is_empty() { vec![std::process::id()] } else { args.pid.clone() };
    let warm_up = Orders { connections: 500, ..orders.clone() };
    let warmed_up = Oracle::listen(warm_up, origin)?.run(public).await;
    anyhow::ensure!(warmed_up.is_clean(), "{warmed_up}");
    let before = settled(&pids, origin, public).await?;
    println!("before  {before:?}");
    let verdict = Oracle::listen(Orders { seed: orders.seed + 1, ..orders }, origin)?.run(public).await;
    println!("{verdict}");
    let after = settled(&pids, origin, public).await?;
    println!("after   {after:?}");
    if before == after && verdict.is_clean() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("VIOLATION not the same as before");
    Ok(ExitCode::FAILURE)
}

/// What a process holds open.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    pid: u32,
    descriptors: usize,
    listeners: usize,
}

/// After a rush an agent has more dial-ins waiting than while it is quiet: clients that come one by one use them up.
async fn settled(pids: &[u32], origin: SocketAddr, public: SocketAddr) -> anyhow::Result<Vec<Open>> {
    let listener = tokio::net::TcpListener::bind(origin).await?;
    let mut last = Vec::new();
    let mut same = 0;
    for _ in 0..300 {
        let client = TcpStream::connect(public).await?;
        let (service, _) = listener.accept().await?;
        drop((client, service));
        tokio::time::sleep(Duration::from_millis(120)).await;
        let now: Vec<_> = pids.iter().map(|pid| open(*pid)).collect::<anyhow::Result<_>>()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == 20 {
            return Ok(last);
        }
    }
    anyhow::bail!("does not come to rest: {last:?}")
}

fn open(pid: u32) -> anyhow::Result<Open> {
    let table =
        fs::read_to_string(format!("/proc/{pid}/net/tcp"))? + &fs::read_to_string(format!("/proc/{pid}/net/tcp6"))?;
    let states: BTreeMap<&str, &str> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            Some((*words.get(9)?, *words.get(3)?))
        })
        .collect();
    let mut open = Open { pid, descriptors: 0, listeners: 0 };
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("process {pid}"))? {
        open.descriptors += 1;
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        if inode.is_some_and(|inode| states.get(inode) == Some(&LISTENING)) {
            open.listeners += 1;
        }
    }
    Ok(open)
}

/// TCP_LISTEN, as /proc/net/tcp writes it.
const LISTENING: &str = "0A";
