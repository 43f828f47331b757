use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path as Directory, PathBuf},
    process::Command,
    sync::atomic::{AtomicU8, AtomicU16, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tempfile::TempDir;
use tunnel_tests::path::{Length, Path};

use crate::{machine::user::User, process::Process, programs::Programs};

/// What subjects are started on.
#[derive(Debug)]
pub struct Stage {
    /// Where the origin serves.
    pub origin: SocketAddr,
    /// The origin's process.
    pub origin_process: Process,
    /// Where programs are.
    pub programs: Programs,
    /// As whom subjects run, if not as we do.
    pub user: Option<User>,
    directory: TempDir,
    ports: AtomicU16,
    hosts: AtomicU8,
}

/// A long path between a server and its agent.
#[derive(Debug, Clone, Copy)]
pub struct Far {
    /// How long a byte takes there and its answer back.
    pub round_trip: Duration,
    /// How much one connection carries, in bytes a second. On a real path that is the size of the kernel's buffers over the
    /// round trip.
    pub bandwidth: u32,
}

impl Far {
    /// With as much for each connection as Linux' default buffers (4 MiB for what is sent) were seen to carry on 50 ms.
    pub const FIFTY_MS: Self = Self { round_trip: Duration::from_millis(50), bandwidth: 63 << 20 };

    fn length(self) -> Length {
        let delay = self.round_trip / 2;
        Length { delay, in_flight: (f64::from(self.bandwidth) * delay.as_secs_f64()) as u32 }
    }
}

impl Stage {
    /// Starts the origin. What is written and said goes to a directory that is gone with this.
    ///
    /// # Errors
    /// If there is no origin.
    pub async fn set(programs: Programs, user: Option<User>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("a directory")?;
        if let Some(user) = &user {
            user.give(directory.path())?;
        }
        let mut command = Command::new(&programs.origin);
        let mut origin_process = Process::start("origin", &mut command, directory.path(), user.as_ref())?;
        let origin = origin_process.says_addr("").await?;
        // Others that do the same at this time most likely begin elsewhere.
        let first = FIRST + std::process::id() as u16 % (LAST - FIRST);
        let (ports, hosts) = (AtomicU16::new(first), AtomicU8::new(2));
        Ok(Self { origin, origin_process, programs, user, directory, ports, hosts })
    }

    /// Starts a process as the user that is wanted.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> anyhow::Result<Process> {
        // What we were given is not for the subjects.
        for variable in
            ["RUST_LOG", "TNL_SERVER", "TNL_BACKEND", "TNL_NAME", "TNL_PORT", "TNL_OUTPUT", "TNL_TOKEN_FILE"]
        {
            command.env_remove(variable);
        }
        Process::start(name, command, self.directory.path(), self.user.as_ref())
    }

    /// Writes a file for a subject.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.file(name)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(user) = &self.user {
            user.give(&path)?;
        }
        Ok(path)
    }

    /// A name for a file that nothing has yet.
    pub(super) fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let mut paths = (0..).map(|number| self.directory.path().join(format!("{number}-{name}")));
        paths.find(|path| !path.exists()).context("a name for a file")
    }

    /// Where files are.
    pub(super) fn directory(&self) -> &Directory {
        self.directory.path()
    }

    /// A port that is free now, and that nobody gets by chance: below the kernel's range for outgoing connections and above the
    /// pools of our server.
    pub(super) fn port(&self) -> anyhow::Result<u16> {
        for _ in FIRST..LAST {
            let next = self.ports.fetch_add(1, Ordering::Relaxed);
            let port = FIRST + next % (LAST - FIRST);
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(port);
            }
        }
        anyhow::bail!("no port is free between {FIRST} and {LAST}")
    }

    /// The same as an address of this machine.
    pub(super) fn addr(&self) -> anyhow::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, self.port()?).into())
    }

    /// Another address of this machine: all of 127/8 are. For programs whose port cannot be chosen.
    pub(super) fn host(&self) -> IpAddr {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        Ipv4Addr::new(127, 0, 1, number.max(2)).into()
    }

    /// Where one has to connect to get to `target`: there, or to the beginning of a path to it, at the same port of another
    /// address of this machine.
    pub(super) async fn path_to(
        &self,
        target: SocketAddr,
        far: Option<Far>,
        paths: &mut Vec<Path>,
    ) -> anyhow::Result<SocketAddr> {
        self.path_from(self.host(), target, far, paths).await
    }

    /// The same from an address that is known before.
    pub(super) async fn path_from(
        &self,
        host: IpAddr,
        target: SocketAddr,
        far: Option<Far>,
        paths: &mut Vec<Path>,
    ) -> anyhow::Result<SocketAddr> {
        let Some(far) = far else { return Ok(target) };
        let here = SocketAddr::new(host, target.port());
        paths.push(Path::between(here, target, far.length()).await.context("the long path")?);
        Ok(here)
    }
}

const FIRST: u16 = 28_100;
const LAST: u16 = 32_700;
