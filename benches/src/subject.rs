//! What is measured: ours, the peers, and no tunnel at all. Each is a server and an agent (or two of the same in a row) that lead
//! from one address to the origin, with the config that its users would have, and TCP_NODELAY where that is a choice.

mod bore;
mod haproxy;
mod nginx;
mod ours;
mod rathole;
mod ssh;
mod stage;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tokio::time::{sleep, timeout};
use tunnel_tests::path::Path;

pub use stage::{Far, Stage};

use crate::{
    load::page,
    machine::Side,
    process::Process,
    programs::{BORE, Programs, RATHOLE, installed},
};

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Subject {
    /// The clients connect to the origin.
    Direct,
    /// Ours, with the `tcp` backend.
    Tcp,
    /// Ours, with the `mux` backend.
    Mux,
    /// Ours, by a host name: requests and not connections travel.
    Http,
    /// rathole 0.5.0.
    Rathole,
    /// bore 0.6.0.
    Bore,
    /// Two haproxy in TCP mode.
    Haproxy,
    /// The same with splice.
    HaproxySplice,
    /// Two nginx with the stream module.
    Nginx,
    /// OpenSSH with -R.
    Ssh,
    /// Two nginx as HTTP proxies, with their access logs.
    NginxHttp,
}

impl Subject {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::Direct,
        Self::Tcp,
        Self::Mux,
        Self::Http,
        Self::Rathole,
        Self::Bore,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::Nginx,
        Self::Ssh,
        Self::NginxHttp,
    ];

    /// As it is written in arguments and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tcp => "tcp",
            Self::Mux => "mux",
            Self::Http => "http",
            Self::Rathole => "rathole",
            Self::Bore => "bore",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
            Self::Ssh => "ssh",
            Self::NginxHttp => "nginx-http",
        }
    }

    /// Whether it is somebody else's.
    pub fn is_peer(self) -> bool {
        !matches!(self, Self::Direct | Self::Tcp | Self::Mux | Self::Http)
    }

    /// Whether it passes requests and nothing else.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Http | Self::NginxHttp)
    }

    /// The backend of our server.
    pub fn backend(self) -> Option<&'static str> {
        match self {
            Self::Tcp => Some("tcp"),
            Self::Mux | Self::Http => Some("mux"),
            _ => None,
        }
    }

    /// Gets its program.
    ///
    /// # Errors
    /// If there is none to be had; then it is left out.
    pub async fn prepare(self, programs: &Programs) -> anyhow::Result<PathBuf> {
        match self {
            Self::Direct => Ok(PathBuf::new()),
            Self::Tcp | Self::Mux => Ok(programs.server()),
            Self::Http => ours::has_names(programs).await.map(|()| programs.server()),
            Self::Rathole => programs.fetch(&RATHOLE).await,
            Self::Bore => programs.fetch(&BORE).await,
            Self::Haproxy | Self::HaproxySplice => installed("haproxy"),
            Self::Nginx => nginx::has_streams().and_then(|()| installed("nginx")),
            Self::NginxHttp => installed("nginx"),
            Self::Ssh => installed("ssh").and_then(|_| installed("ssh-keygen")).and_then(|_| installed("sshd")),
        }
    }

    /// Starts it, on a long path between its two sides if that is asked for, and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub async fn start(self, stage: &Stage, program: &std::path::Path, far: Option<Far>) -> anyhow::Result<Running> {
        let started = match self {
            Self::Direct => direct(stage, far).await,
            Self::Tcp | Self::Mux | Self::Http => ours::start(self, stage, far).await,
            Self::Rathole => rathole::start(stage, program, far).await,
            Self::Bore => bore::start(stage, program, far).await,
            Self::Haproxy => haproxy::start(stage, program, haproxy::Splice::No, far).await,
            Self::HaproxySplice => haproxy::start(stage, program, haproxy::Splice::Yes, far).await,
            Self::Nginx => nginx::start(stage, program, nginx::Kind::Stream, far).await,
            Self::NginxHttp => nginx::start(stage, program, nginx::Kind::Http, far).await,
            Self::Ssh => ssh::start(stage, program, far).await,
        };
        let mut running = started.with_context(|| format!("{self} does not start"))?;
        running.until_it_serves().await.with_context(|| format!("{self} does not serve"))?;
        Ok(running)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A subject that serves until this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub target: SocketAddr,
    /// What web clients call it.
    pub host: String,
    /// Where its RPC is, if it is ours.
    pub rpc: Option<String>,
    server: Vec<Process>,
    agent: Vec<Process>,
    _paths: Vec<Path>,
}

impl Running {
    fn new(target: SocketAddr, server: Process, agent: Process, paths: Vec<Path>) -> Self {
        let (server, agent) = (vec![server], vec![agent]);
        Self { target, host: target.to_string(), rpc: None, server, agent, _paths: paths }
    }

    /// The processes of the side that clients connect to.
    pub fn server(&self) -> Side {
        Side::of(self.server.iter().map(Process::id))
    }

    /// Those of the side that connects to the origin.
    pub fn agent(&self) -> Side {
        Side::of(self.agent.iter().map(Process::id))
    }

    async fn until_it_serves(&mut self) -> anyhow::Result<()> {
        let served = async {
            while page(self.target, &self.host).await.is_err() {
                for process in self.server.iter_mut().chain(&mut self.agent) {
                    process.check()?;
                }
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        match timeout(PATIENCE, served).await {
            Ok(served) => served,
            Err(_) => bail!("no page through {} within {PATIENCE:?}", self.target),
        }
    }
}

async fn direct(stage: &Stage, far: Option<Far>) -> anyhow::Result<Running> {
    let mut paths = Vec::new();
    let target = stage.path_to(stage.origin, far, &mut paths).await?;
    let host = target.to_string();
    Ok(Running { target, host, rpc: None, server: Vec::new(), agent: Vec::new(), _paths: paths })
}

/// For a subject to serve.
const PATIENCE: Duration = Duration::from_secs(20);
