//! The processes that are measured. None of them outlives the run, however that ends.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::sleep;

use crate::machine::{descendants, user::User};

/// A process that runs until this is dropped, and all that it has started with it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it in a process group of its own; what it says goes to a file in `directory`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command, directory: &Path, user: Option<&User>) -> anyhow::Result<Self> {
        let log = (0..).map(|number| directory.join(format!("{name}-{number}.log"))).find(|path| !path.exists());
        let log = log.context("a name for a log")?;
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        if let Some(user) = user {
            command.uid(user.id).gid(user.group);
        }
        let spawned = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).spawn();
        let child = spawned.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What follows `marker` in what it says, as far as the line goes; waits for it.
    ///
    /// # Errors
    /// If it ends first, or is silent for too long.
    pub async fn says(&mut self, marker: &str) -> anyhow::Result<String> {
        let since = Instant::now();
        loop {
            let said = self.said();
            // A line that has no end yet may go on.
            let lines = said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            if let Some((_, rest)) = lines.filter_map(|line| line.split_once(marker)).next() {
                return Ok(rest.trim().to_owned());
            }
            self.check()?;
            if since.elapsed() > PATIENCE {
                bail!("{} does not say {marker:?}:\n{}", self.name, self.last_words());
            }
            sleep(BEAT).await;
        }
    }

    /// An address that it says after `marker`.
    ///
    /// # Errors
    /// If it says none.
    pub async fn says_addr(&mut self, marker: &str) -> anyhow::Result<SocketAddr> {
        let said = self.says(marker).await?;
        said.parse().with_context(|| format!("{} says {said:?}, which is no address", self.name))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If it does not, with what it said last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended ({status}):\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Some of what it started may have left its group.
        let all = descendants(&[self.child.id()]);
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        for process in all.into_iter().filter(|&process| process != self.child.id()) {
            let _ = Pid::from_raw(process.cast_signed()).map(|process| kill_process(process, Signal::KILL));
        }
        let _ = self.child.wait();
    }
}

/// For a process to be there.
const PATIENCE: Duration = Duration::from_secs(20);
const BEAT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_that_it_started_outlives_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo child $!; wait"]);
        let mut process = Process::start("shell", &mut command, directory.path(), None).unwrap();
        let child: i32 = process.says("child").await.unwrap().parse().unwrap();
        let child = Pid::from_raw(child).unwrap();
        assert!(rustix::process::test_kill_process(child).is_ok());
        drop(process);
        // Somebody has to wait for it before it is quite gone, and that is not us.
        let is_over = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !stat.contains(") S ") && !stat.contains(") R ")
        };
        while !is_over() {
            sleep(BEAT).await;
        }
    }

    #[tokio::test]
    async fn one_that_ends_at_once_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no port; exit 3"]);
        let mut process = Process::start("shell", &mut command, directory.path(), None).unwrap();
        let error = process.says("listens on ").await.unwrap_err().to_string();
        assert!(error.contains("no port"), "{error}");
    }
}
