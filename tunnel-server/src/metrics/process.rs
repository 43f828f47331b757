use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::{log, panics};

/// How the process does, asked at each scrape.
#[derive(Debug)]
pub(super) struct Process {
    since: SystemTime,
}

impl Process {
    pub(super) fn new() -> Self {
        Self { since: SystemTime::now() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, value: Option<f64>| -> fmt::Result {
            // Where the system does not say, there is none.
            let Some(value) = value else { return Ok(()) };
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("process_open_fds", "Open file descriptors.", open_descriptors().map(|count| count as f64))?;
        gauge("process_max_fds", "How many there may be.", most_descriptors().map(|count| count as f64))?;
        gauge("process_resident_memory_bytes", "Resident memory.", resident().map(|bytes| bytes as f64))?;
        let since = self.since.duration_since(UNIX_EPOCH).ok();
        gauge("process_start_time_seconds", "When the server started.", since.map(|since| since.as_secs_f64()))?;
        let panics =
            encoder.encode_descriptor("tunnel_panics", "Panics, which are bugs.", None, MetricType::Counter)?;
        ConstCounter::new(panics::count()).encode(panics)?;
        let lost = "Lines of the log that were lost, because it was not read in time.";
        let lost = encoder.encode_descriptor("tunnel_log_lines_lost", lost, None, MetricType::Counter)?;
        ConstCounter::new(log::lost()).encode(lost)
    }
}

/// How many descriptors this process has open.
fn open_descriptors() -> Option<u64> {
    let directory = "/proc/self/fd";
    // Since Linux 6.2 the directory's size tells, so that a million of them need not be listed.
    match std::fs::metadata(directory).ok()?.len() {
        0 => std::fs::read_dir(directory).ok().map(|entries| entries.count() as u64),
        count => Some(count),
    }
}

#[cfg(unix)]
fn most_descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn most_descriptors() -> Option<u64> {
    None
}

/// proc(5): "VmRSS:      1234 kB".
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
