//! Which congestion control TCP has here. BBR sends at the pace it has measured, on loopback too, and hides what is being
//! compared. What all the processes of a run use is the network namespace's default, so a run can have one of its own.

use std::{env, fs, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{bail, ensure};

/// The default of the network namespace we are in.
pub fn control() -> String {
    fs::read_to_string(CONTROL).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// What to say about it.
pub fn advice() -> Option<String> {
    (control() == "bbr").then(|| {
        "NOTE: the congestion control here is bbr, which paces loopback and hides differences between the subjects.\n\
         Run with --congestion reno (as root: a network namespace of its own, nothing on this machine changes), or set it\n\
         for the machine: sysctl -w net.ipv4.tcp_congestion_control=reno"
            .to_owned()
    })
}

/// Begins this program anew in a network namespace of its own that has this congestion control. Returns if we are there.
///
/// # Errors
/// If it cannot be had.
pub fn enter(control: &str) -> anyhow::Result<()> {
    if env::var_os(INSIDE).is_some() {
        ensure!(self::control() == control, "the congestion control is {} and not {control}", self::control());
        return Ok(());
    }
    if self::control() == control {
        return Ok(());
    }
    if !control.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        bail!("{control} is no congestion control");
    }
    ensure!(rustix::process::geteuid().is_root(), "--congestion needs root, for a network namespace");
    ensure!(Path::new(CONTROL).exists(), "{CONTROL} is not there");
    let script = format!("ip link set lo up && echo {control} > {CONTROL} && exec \"$@\"");
    let error = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", &script, "sh"])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(INSIDE, control)
        .exec();
    bail!("cannot run unshare: {error}");
}

const CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Set when we have begun anew.
const INSIDE: &str = "TUNNEL_BENCHES_INSIDE";
