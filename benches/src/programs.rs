//! The programs that are measured: ours are built, two peers are fetched, the others are there or are left out.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

/// Where programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Where cargo puts what it builds: `target/release`, say.
    built: PathBuf,
    /// The service that everything leads to.
    pub origin: PathBuf,
}

/// A peer that cargo fetches, at the version that is compared with.
#[derive(Debug)]
pub struct Fetched {
    /// Its package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its program.
    pub program: &'static str,
    /// More arguments for `cargo install`.
    pub how: &'static [&'static str],
}

/// Without TLS and noise, which it does not use here and which would need OpenSSL. Without its lock file, too: that has a version of
/// the `time` crate which compilers since Rust 1.80 refuse.
pub const RATHOLE: Fetched = Fetched {
    package: "rathole",
    version: "0.5.0",
    program: "rathole",
    how: &["--no-default-features", "--features", "server,client"],
};

/// As it is.
pub const BORE: Fetched = Fetched { package: "bore-cli", version: "0.6.0", program: "bore", how: &["--locked"] };

impl Programs {
    /// Beside the program that runs: all of them are built together.
    ///
    /// # Errors
    /// If nobody knows where that is.
    pub fn beside_us() -> anyhow::Result<Self> {
        let us = env::current_exe().context("where this program is")?;
        let built = us.parent().context("this program's directory")?.to_owned();
        Ok(Self { origin: built.join("origin"), built })
    }

    /// Those in `built`, with this origin.
    pub fn in_directory(built: impl Into<PathBuf>, origin: impl Into<PathBuf>) -> Self {
        Self { built: built.into(), origin: origin.into() }
    }

    /// Our server.
    pub fn server(&self) -> PathBuf {
        self.built.join("tunnel-server")
    }

    /// Our agent.
    pub fn agent(&self) -> PathBuf {
        self.built.join("tunnel")
    }

    /// Builds what is ours where it is not up to date, as the profile says.
    ///
    /// # Errors
    /// If it does not build.
    pub async fn build(&self, profile: &[&str]) -> anyhow::Result<()> {
        let ours = ["build", "--locked", "--quiet", "-p", "tunnel-server", "-p", "tunnel-agent"];
        cargo(&[&ours[..], profile].concat()).await?;
        ensure!(
            self.server().exists() && self.agent().exists(),
            "cargo has built to another place than {}",
            self.built.display()
        );
        Ok(())
    }

    /// Builds the origin, too.
    ///
    /// # Errors
    /// If it does not build.
    pub async fn build_origin(&self, profile: &[&str]) -> anyhow::Result<()> {
        let origin = ["build", "--locked", "--quiet", "-p", "tunnel-benches", "--bin", "origin"];
        cargo(&[&origin[..], profile].concat()).await
    }

    /// Where a peer's program is, which is fetched and built unless it has been. Versions have directories of their own.
    ///
    /// # Errors
    /// If that fails.
    pub async fn fetch(&self, peer: &Fetched) -> anyhow::Result<PathBuf> {
        let peers = self.built.parent().context("cargo's directory")?.join("peers");
        let root = peers.join(format!("{}-{}", peer.package, peer.version));
        let program = root.join("bin").join(peer.program);
        if !program.exists() {
            eprintln!("fetching and building {} {}", peer.package, peer.version);
            let (root, build) = (root.display().to_string(), peers.join("build").display().to_string());
            let package = format!("{}@{}", peer.package, peer.version);
            let install = ["install", "--quiet", &package, "--root", &root, "--target-dir", &build];
            cargo(&[&install[..], peer.how].concat()).await?;
        }
        Ok(program)
    }
}

/// A program of the system's.
///
/// # Errors
/// If it is not installed.
pub fn installed(program: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where users do not look.
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = directories.map(|directory| directory.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{program} is not installed"))
}

async fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(workspace).kill_on_drop(true);
    // What cargo tells those it runs about their own package is news to some build scripts, and would have everything built anew.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| OF_OUR_PACKAGE.iter().any(|kind| name.starts_with(kind))) {
            command.env_remove(name);
        }
    }
    let status = command.status().await.context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} has failed", arguments.join(" "));
    }
    Ok(())
}

const OF_OUR_PACKAGE: &[&str] = &["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];
