use std::{
    collections::{HashMap, HashSet},
    fs,
    ops::Sub,
    time::Duration,
};

use rustix::param::clock_ticks_per_second;

/// The processes of one side of a tunnel, with all that they have started.
#[derive(Debug, Clone, Default)]
pub struct Side {
    roots: Vec<u32>,
}

impl Side {
    /// Of these processes.
    pub fn of(roots: impl IntoIterator<Item = u32>) -> Self {
        Self { roots: roots.into_iter().collect() }
    }

    /// Both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { roots: [self.roots.clone(), other.roots.clone()].concat() }
    }

    /// Nobody.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// All of them, now.
    pub fn processes(&self) -> Vec<u32> {
        descendants(&self.roots)
    }

    /// The processor time they have used so far, in user space and in the kernel; those that have ended included. The kernel
    /// counts it in ticks of (usually) 10 ms.
    pub fn processor_time(&self) -> Duration {
        let ticks: u64 = self.processes().into_iter().filter_map(ticks).sum();
        Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
    }

    /// What they hold now.
    pub fn holdings(&self) -> Holdings {
        let processes = self.processes();
        Holdings {
            memory: processes.iter().map(|&process| memory(process)).sum(),
            descriptors: processes.iter().map(|&process| descriptors(process)).sum(),
        }
    }
}

/// What processes hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Holdings {
    /// In bytes: resident, and what is shared counted once (PSS). What the kernel holds for them, such as socket buffers, is not
    /// in it.
    pub memory: f64,
    /// Open files and sockets.
    pub descriptors: f64,
}

impl Sub for Holdings {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { memory: self.memory - before.memory, descriptors: self.descriptors - before.descriptors }
    }
}

/// These processes and all that they have started, and so on.
pub fn descendants(roots: &[u32]) -> Vec<u32> {
    let mut children = HashMap::<u32, Vec<u32>>::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(parent) = stat(process).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let (mut found, mut seen) = (roots.to_vec(), HashSet::new());
    let mut at = 0;
    while let Some(&process) = found.get(at) {
        if seen.insert(process) {
            found.extend(children.get(&process).into_iter().flatten());
        }
        at += 1;
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The fields of /proc/PID/stat from the third on: the second is the name, in parentheses, and may have anything in it.
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Its own, and of the children that it has waited for: utime, stime, cutime and cstime are the 14th field and the next three.
fn ticks(process: u32) -> Option<u64> {
    Some(stat(process)?.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum())
}

fn memory(process: u32) -> f64 {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/{file}")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB");
        value.parse::<f64>().ok()
    };
    // Whose memory may not be looked at in detail still says how much is resident.
    line("smaps_rollup", "Pss:").or_else(|| line("status", "VmRSS:")).unwrap_or(0.0) * 1024.0
}

fn descriptors(process: u32) -> f64 {
    fs::read_dir(format!("/proc/{process}/fd")).map_or(0.0, |files| files.count() as f64)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_of_children_count() {
        let script = "sleep 60 & wait";
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().expect("a shell");
        let side = Side::of([child.id()]);
        while side.processes().len() < 2 {
            std::thread::yield_now();
        }
        let processes = side.processes();
        assert!(side.holdings().memory > 0.0 && side.holdings().descriptors > 0.0, "{:?}", side.holdings());
        child.kill().expect("it runs");
        child.wait().expect("a child");
        for process in processes {
            let _ = rustix::process::Pid::from_raw(process as i32)
                .map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
        }
    }

    #[test]
    fn work_takes_processor_time() {
        let side = Side::of([std::process::id()]);
        let before = side.processor_time();
        while side.processor_time() <= before {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
    }
}
