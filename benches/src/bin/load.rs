//! `load`: one kind of load on one address that leads to the benchmark's origin. See `--help`.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use clap::{Parser, Subcommand};
use tokio::time::sleep;
use tunnel_benches::{
    load::{self, Bulk, Crowd, Spell, Way},
    machine::Side,
    spread::fairness,
};

/// Puts load on one address that leads to the benchmark's `origin`, and says how it was borne.
#[derive(Debug, Parser)]
#[command(after_help = NOTES)]
struct Args {
    #[command(subcommand)]
    load: Load,
    /// Where clients connect
    #[arg(long, value_name = "IP:PORT", global = true, default_value = "127.0.0.1:20000")]
    target: SocketAddr,
    /// How long before anything counts, in seconds
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = 1.0)]
    warm_up: f64,
    /// How long everything counts, in seconds
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = 5.0)]
    seconds: f64,
    /// Processes whose costs are told, with those that they have started
    #[arg(long = "pid", value_name = "PID", global = true)]
    processes: Vec<u32>,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// As much as goes through
    Bulk {
        /// To the clients, or from them
        #[arg(value_enum)]
        way: Way,
        /// How many transfers at once
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Where the origin is, which counts what goes up; the target if left out
        #[arg(long, value_name = "IP:PORT")]
        origin: Option<SocketAddr>,
    },
    /// Words and their echoes
    Ping {
        /// In bytes
        #[arg(long, default_value_t = 1)]
        size: usize,
        /// Beside so many transfers
        #[arg(long, default_value_t = 0)]
        beside: usize,
    },
    /// Connections, one after another
    Calls {
        /// How many callers at once
        #[arg(long, default_value_t = 32)]
        callers: usize,
    },
    /// Requests on connections that are kept
    Web {
        /// How many of those
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// The host that is asked for; the target if left out
        #[arg(long)]
        host: Option<String>,
    },
    /// Connections that do nothing
    Idle {
        /// How many
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tunnel_backends::process::raise_descriptor_limit();
    ensure!(args.seconds > 0.0 && args.warm_up >= 0.0, "times are not negative");
    let [warm_up, time] = [args.warm_up, args.seconds].map(Duration::from_secs_f64);
    let (target, spell, side) = (args.target, Spell { warm_up, time }, Side::of(args.processes));
    match args.load {
        Load::Bulk { way, connections, origin } => {
            let mut bulk = Bulk::start(target, origin.unwrap_or(target), way, connections).await?;
            sleep(spell.warm_up).await;
            let before = side.processor_time();
            let rates = bulk.rates(spell.time).await?;
            let used = side.processor_time().saturating_sub(before).as_secs_f64();
            let rate = rates.iter().sum::<f64>() / GIB;
            println!("{rate:.3} GiB/s");
            if way == Way::Down {
                println!("{:.4} fairness (Jain)", fairness(&rates));
            }
            if !side.is_empty() {
                println!("{:.3} CPU s/GiB", used / (rate * spell.time.as_secs_f64()));
            }
        }
        Load::Ping { size, beside } => {
            let _bulk = Bulk::start(target, target, Way::Down, beside).await?;
            let pings = load::ping(target, size, spell, None).await?;
            println!("p50 {:?}, p99 {:?} of {}", pings.p50, pings.p99, pings.count);
        }
        Load::Calls { callers } => {
            let calls = load::calls(target, callers, spell).await?;
            println!("{:.0} connections a second, {} failed", calls.rate, calls.failed);
        }
        Load::Web { connections, host } => {
            let host = host.unwrap_or_else(|| target.to_string());
            let web = load::requests(target, &host, connections, spell).await?;
            println!("{:.0} requests a second, p50 {:?}, p99 {:?}", web.rate, web.p50, web.p99);
        }
        Load::Idle { connections } => {
            let before = side.holdings();
            let mut crowd = Crowd::default();
            crowd.grow_to(connections, target).await?;
            sleep(spell.time).await;
            let (each, many) = (side.holdings() - before, connections as f64);
            println!("{:.2} KiB, {:.2} descriptors each", each.memory / 1024.0 / many, each.descriptors / many);
        }
    }
    Ok(())
}

const GIB: f64 = (1_u64 << 30) as f64;

const NOTES: &str = "\
Examples:
  origin &                                                   prints where it serves
  tunnel tcp PORT                                            prints the target
  load bulk down --connections 8 --target 127.0.0.1:20000 --pid $(pidof tunnel-server) --pid $(pidof tunnel)
  load ping --beside 1";
