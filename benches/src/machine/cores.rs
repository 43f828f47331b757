//! On which cores processes run.

use std::{fs, io};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Keeps processes on one core until this is dropped; then they may run where we may.
#[derive(Debug)]
pub struct Pinned {
    processes: Vec<u32>,
    before: CpuSet,
}

impl Pinned {
    /// All threads that they have now, on the first core that we may use; says which.
    ///
    /// # Errors
    /// If they are others' processes.
    pub fn to_one_core(processes: Vec<u32>) -> io::Result<(Self, usize)> {
        let before = sched_getaffinity(None)?;
        let core = (0..CpuSet::MAX_CPU).find(|&core| before.is_set(core)).unwrap_or(0);
        let mut one = CpuSet::new();
        one.set(core);
        let pinned = Self { processes, before };
        for thread in pinned.threads() {
            sched_setaffinity(Some(thread), &one)?;
        }
        Ok((pinned, core))
    }

    fn threads(&self) -> Vec<Pid> {
        let tasks = self.processes.iter().filter_map(|process| fs::read_dir(format!("/proc/{process}/task")).ok());
        let names = tasks.flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?)).collect()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for thread in self.threads() {
            // It may have ended meanwhile.
            let _ = sched_setaffinity(Some(thread), &self.before);
        }
    }
}

/// How many of them there are for us.
pub fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
