//! The kernel's own range of ports.

use std::{fs, ops::RangeInclusive};

use tunnel_backends::ports::PortRange;

/// The ports that the kernel gives to outgoing connections, where it says so.
pub(crate) fn range() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    Some(ports.next()?.ok()?..=ports.next()?.ok()?)
}

/// Warns of a pool that overlaps it: an outgoing connection may hold a port when a restart wants it back.
pub(crate) fn warn_of_overlap(key: &str, pool: &PortRange) {
    let (PortRange::Between(pool), Some(kernel)) = (pool, range()) else { return };
    if pool.start() <= kernel.end() && kernel.start() <= pool.end() {
        tracing::warn!(
            "{key} ({}-{}) overlaps the kernel's range for outgoing connections ({}-{}, ip_local_port_range): \
             ports may be taken when a restart wants them back; choose a range outside it",
            pool.start(),
            pool.end(),
            kernel.start(),
            kernel.end()
        );
    }
}
