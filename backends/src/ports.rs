//! Port pools: which ports tunnels listen on, and who has them.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use rand::RngExt as _;
use tokio::net::TcpListener;
use tunnel_api::{Owner, TunnelError};

use crate::{
    quarantine::{Claim, Quarantine},
    sockets,
};

/// Ports to hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRange {
    /// Whichever the kernel gives. For tests and for one's own machine: after a restart such a port may be somebody's.
    Kernel,
    /// These. They should lie outside the kernel's own range for outgoing connections.
    Between(RangeInclusive<u16>),
}

/// A pool of ports that tunnels of any backend share. A port is handed out once at a time, listening.
#[derive(Debug)]
pub struct PortPool {
    range: PortRange,
    extra: BTreeSet<u16>,
    state: Mutex<State>,
    quarantine: Option<Arc<Quarantine>>,
}

#[derive(Debug)]
struct State {
    /// Ports of the range that no tunnel holds, the one that has been free for longest first.
    free: VecDeque<u16>,
    /// Ports that tunnels hold, whether or not they listen on them at the moment.
    held: HashSet<u16>,
}

/// Which of the free ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// That one and no other.
    Exactly(u16),
    /// The one that has been free for longest: whoever remembers an address of a tunnel that is gone should meet nobody.
    LongestFree,
    /// One that nobody can guess, and not next to this one.
    Unguessable {
        /// The port not to be next to.
        apart_from: u16,
    },
}

/// The right to a port; dropping it gives the port back to its pool.
#[derive(Debug)]
pub struct PortLease {
    pool: Arc<PortPool>,
    port: u16,
}

impl PortPool {
    /// A pool of `range`, and of `extra` ports that are handed out only to those who ask for them by number.
    pub fn new(range: PortRange, extra: BTreeSet<u16>) -> Arc<Self> {
        Self::build(range, extra, None)
    }

    /// The same, of ports that nobody gets while they are kept for somebody else.
    pub fn with_quarantine(range: PortRange, extra: BTreeSet<u16>, quarantine: Arc<Quarantine>) -> Arc<Self> {
        Self::build(range, extra, Some(quarantine))
    }

    fn build(range: PortRange, extra: BTreeSet<u16>, quarantine: Option<Arc<Quarantine>>) -> Arc<Self> {
        let free = match &range {
            PortRange::Kernel => VecDeque::new(),
            PortRange::Between(ports) => ports.clone().filter(|port| !extra.contains(port)).collect(),
        };
        let state = Mutex::new(State { free, held: HashSet::new() });
        Arc::new(Self { range, extra, state, quarantine })
    }

    /// Takes a port for a tunnel of this owner's and listens on it at `ip`.
    pub fn listen(
        self: &Arc<Self>,
        ip: IpAddr,
        choice: Choice,
        owner: &Owner,
    ) -> Result<(PortLease, TcpListener), TunnelError> {
        match (choice, &self.range) {
            (Choice::Exactly(port), _) => self.listen_exactly(ip, port, owner),
            (_, PortRange::Kernel) => self.listen_anywhere(ip, choice, owner),
            (_, PortRange::Between(_)) => self.listen_in_range(ip, choice, owner),
        }
    }

    /// Whether the port was this owner's lately, so that it may ask for it by number whatever else it may.
    pub fn is_kept_for(&self, owner: &Owner, port: u16) -> bool {
        self.quarantine.as_ref().is_some_and(|quarantine| quarantine.is_kept_for(owner, &Claim::Port(port)))
    }

    fn is_barred(&self, owner: &Owner, port: u16) -> bool {
        self.quarantine.as_ref().is_some_and(|quarantine| quarantine.bars(owner, &Claim::Port(port)).is_some())
    }

    fn listen_exactly(
        self: &Arc<Self>,
        ip: IpAddr,
        port: u16,
        owner: &Owner,
    ) -> Result<(PortLease, TcpListener), TunnelError> {
        if !self.hands_out(port) {
            return Err(TunnelError::NotAllowed {
                why: format!(
                    "port {port} is not handed out here: it is neither in the pool ({}) nor among `extra_ports`; \
                     leave the port empty to get one, or have the operator add it",
                    self.range
                ),
            });
        }
        if let Some(barred) = self.quarantine.as_ref().and_then(|kept| kept.bars(owner, &Claim::Port(port))) {
            return Err(TunnelError::AddressTaken { address: format!("port {port} ({barred})") });
        }
        let taken = || TunnelError::AddressTaken { address: format!("port {port}") };
        let lease = self.hold(port).ok_or_else(taken)?;
        match sockets::listen_for_streams(SocketAddr::new(ip, port)) {
            Ok(listener) => Ok((lease, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(taken()),
            Err(error) => Err(cannot_listen(ip, port, error)),
        }
    }

    /// Ports that turn out to be somebody else's go to the end of the queue, and the next one is tried.
    fn listen_in_range(
        self: &Arc<Self>,
        ip: IpAddr,
        choice: Choice,
        owner: &Owner,
    ) -> Result<(PortLease, TcpListener), TunnelError> {
        let mut passed_over = Vec::new();
        let result = loop {
            let Some(port) = self.next_free(choice, owner) else { break Err(self.exhausted()) };
            match sockets::listen_for_streams(SocketAddr::new(ip, port)) {
                Ok(listener) => break Ok((PortLease { pool: self.clone(), port }, listener)),
                Err(error) => {
                    passed_over.push(port);
                    if error.kind() != io::ErrorKind::AddrInUse {
                        break Err(cannot_listen(ip, port, error));
                    }
                }
            }
        };
        for port in passed_over {
            self.give_back(port);
        }
        result
    }

    /// The kernel may give a port that a tunnel still holds although it has stopped listening on it; then another one.
    fn listen_anywhere(
        self: &Arc<Self>,
        ip: IpAddr,
        choice: Choice,
        owner: &Owner,
    ) -> Result<(PortLease, TcpListener), TunnelError> {
        let mut passed_over = Vec::new();
        while passed_over.len() < KERNEL_TRIES {
            let listener =
                sockets::listen_for_streams(SocketAddr::new(ip, 0)).map_err(|error| cannot_listen(ip, 0, error))?;
            let port = listener.local_addr().map_err(|error| cannot_listen(ip, 0, error))?.port();
            if !choice.accepts(port) || self.is_barred(owner, port) {
                passed_over.push(listener);
            } else if let Some(lease) = self.hold(port) {
                return Ok((lease, listener));
            } else {
                passed_over.push(listener);
            }
        }
        Err(self.exhausted())
    }

    fn hands_out(&self, port: u16) -> bool {
        let in_range = match &self.range {
            PortRange::Kernel => true,
            PortRange::Between(range) => range.contains(&port),
        };
        in_range || self.extra.contains(&port)
    }

    fn hold(self: &Arc<Self>, port: u16) -> Option<PortLease> {
        let mut state = self.lock();
        if !state.held.insert(port) {
            return None;
        }
        state.free.retain(|free| *free != port);
        Some(PortLease { pool: self.clone(), port })
    }

    fn next_free(&self, choice: Choice, owner: &Owner) -> Option<u16> {
        let mut state = self.lock();
        let acceptable = |port: &u16| choice.accepts(*port) && !self.is_barred(owner, *port);
        let port = match choice {
            Choice::Unguessable { .. } => {
                // At most three ports and those that are kept for others are unacceptable, so this almost never goes round.
                let index = (0..16)
                    .filter(|_| !state.free.is_empty())
                    .map(|_| rand::rng().random_range(0..state.free.len()))
                    .find(|index| acceptable(&state.free[*index]))
                    .or_else(|| state.free.iter().position(acceptable))?;
                state.free.swap_remove_back(index)?
            }
            _ => {
                let index = state.free.iter().position(acceptable)?;
                state.free.remove(index)?
            }
        };
        state.held.insert(port);
        Some(port)
    }

    fn give_back(&self, port: u16) {
        let mut state = self.lock();
        state.held.remove(&port);
        let belongs = match &self.range {
            PortRange::Kernel => false,
            PortRange::Between(range) => range.contains(&port) && !self.extra.contains(&port),
        };
        if belongs {
            state.free.push_back(port);
        }
    }

    fn exhausted(&self) -> TunnelError {
        TunnelError::LimitReached {
            limit: format!("no free port in {}; close a tunnel, or have the operator widen the pool", self.range),
            retry_after: None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Choice {
    fn accepts(self, port: u16) -> bool {
        match self {
            Self::Unguessable { apart_from } => port.abs_diff(apart_from) > 1,
            Self::Exactly(wanted) => port == wanted,
            Self::LongestFree => true,
        }
    }
}

impl PortLease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.pool.give_back(self.port);
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("the kernel's ports"),
            Self::Between(ports) => write!(f, "{}-{}", ports.start(), ports.end()),
        }
    }
}

fn cannot_listen(ip: IpAddr, port: u16, error: io::Error) -> TunnelError {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::MFILE | Errno::NFILE) => TunnelError::LimitReached {
            limit: "the server is out of file descriptors; try again, or have the operator raise its limit".to_owned(),
            retry_after: None,
        },
        Some(Errno::ACCESS) => TunnelError::NotAllowed {
            why: format!("the server may not listen on port {port}; ports below 1024 need CAP_NET_BIND_SERVICE"),
        },
        _ => {
            let at = SocketAddr::new(ip, port);
            TunnelError::internal(format!("listening on {at}"), error)
        }
    }
}

const KERNEL_TRIES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn us() -> Owner {
        Owner::local()
    }

    /// Three neighbouring ports that were free a moment ago.
    fn three_ports() -> RangeInclusive<u16> {
        loop {
            let first = rand::rng().random_range(10_000..32_000);
            let bound: Vec<_> =
                (first..first + 3).map_while(|p| std::net::TcpListener::bind((LOOPBACK, p)).ok()).collect();
            if bound.len() == 3 {
                return first..=first + 2;
            }
        }
    }

    #[tokio::test]
    async fn a_port_is_held_until_its_lease_is_dropped() {
        let pool = PortPool::new(PortRange::Between(three_ports()), BTreeSet::new());
        let (lease, listener) = pool.listen(LOOPBACK, Choice::LongestFree, &us()).unwrap();
        let port = lease.port();
        drop(listener);
        let again = pool.listen(LOOPBACK, Choice::Exactly(port), &us()).unwrap_err();
        assert!(matches!(again, TunnelError::AddressTaken { .. }), "{again:?}");
        drop(lease);
        pool.listen(LOOPBACK, Choice::Exactly(port), &us()).expect("free again");
    }

    #[tokio::test]
    async fn an_exhausted_pool_names_its_range() {
        let ports = three_ports();
        let pool = PortPool::new(PortRange::Between(ports.clone()), BTreeSet::new());
        let held: Vec<_> = (0..3).map(|_| pool.listen(LOOPBACK, Choice::LongestFree, &us()).unwrap()).collect();
        let error = pool.listen(LOOPBACK, Choice::LongestFree, &us()).unwrap_err().to_string();
        assert!(error.contains(&format!("{}-{}", ports.start(), ports.end())), "{error}");
        drop(held);
        pool.listen(LOOPBACK, Choice::LongestFree, &us()).expect("free again");
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_has_is_passed_over() {
        let ports = three_ports();
        let _somebody = std::net::TcpListener::bind((LOOPBACK, *ports.start())).unwrap();
        let pool = PortPool::new(PortRange::Between(ports.clone()), BTreeSet::new());
        let (lease, _listener) = pool.listen(LOOPBACK, Choice::LongestFree, &us()).unwrap();
        assert_eq!(lease.port(), ports.start() + 1);
    }

    #[tokio::test]
    async fn the_longest_free_port_is_chosen() {
        let ports = three_ports();
        let pool = PortPool::new(PortRange::Between(ports.clone()), BTreeSet::new());
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(pool.listen(LOOPBACK, Choice::LongestFree, &us()).unwrap().0.port());
        }
        assert_eq!(seen, ports.collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_unguessable_port_is_never_next_to_the_public_one() {
        let ports = three_ports();
        let pool = PortPool::new(PortRange::Between(ports.clone()), BTreeSet::new());
        let middle = ports.start() + 1;
        assert!(pool.listen(LOOPBACK, Choice::Unguessable { apart_from: middle }, &us()).is_err());
        let far = pool.listen(LOOPBACK, Choice::Unguessable { apart_from: *ports.start() }, &us()).unwrap();
        assert_eq!(far.0.port(), *ports.end());
    }

    #[tokio::test]
    async fn only_ports_of_the_pool_and_extra_ones_are_handed_out() {
        let ports = three_ports();
        let extra = *three_ports().start();
        let pool = PortPool::new(PortRange::Between(ports.clone()), BTreeSet::from([extra]));
        pool.listen(LOOPBACK, Choice::Exactly(extra), &us()).expect("an extra port");
        let error = pool.listen(LOOPBACK, Choice::Exactly(ports.end().wrapping_add(7000)), &us()).unwrap_err();
        assert!(matches!(&error, TunnelError::NotAllowed { why } if why.contains("extra_ports")), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_kept_for_one_goes_to_no_other_by_number_or_by_choice() {
        use crate::quarantine::GivenUpBy;
        let ports = three_ports();
        let quarantine = Quarantine::new(std::time::Duration::from_secs(600));
        let pool = PortPool::with_quarantine(PortRange::Between(ports.clone()), BTreeSet::new(), quarantine.clone());
        let (alice, bob, first) = (Owner::new("alice"), Owner::new("bob"), *ports.start());
        quarantine.give_up(Claim::Port(first), &alice, GivenUpBy::WhoAskedForIt { record: None });

        assert!(pool.is_kept_for(&alice, first) && !pool.is_kept_for(&bob, first));
        let refusal = pool.listen(LOOPBACK, Choice::Exactly(first), &bob).unwrap_err().to_string();
        assert!(refusal.contains(&format!("port {first} (kept for its former owner for another")), "{refusal}");
        let chosen = [(); 2].map(|()| pool.listen(LOOPBACK, Choice::LongestFree, &bob).unwrap());
        assert_eq!(chosen.each_ref().map(|(lease, _)| lease.port()), [first + 1, first + 2]);
        assert!(pool.listen(LOOPBACK, Choice::LongestFree, &bob).is_err());
        pool.listen(LOOPBACK, Choice::Exactly(first), &alice).expect("its former owner may have it at once");
    }
}
