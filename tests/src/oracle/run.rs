use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Barrier, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    end::play,
    pattern::{Direction, Pattern},
    plan::{Expect, Plan, Shape},
};

/// What an oracle is to do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// How many connections in all.
    pub connections: u64,
    /// How many at once.
    pub concurrency: usize,
    /// All connections are made and hear the greeting before any goes on. Needs a concurrency of `connections`.
    pub together: bool,
    /// The most bytes a connection carries one way.
    pub largest: u64,
    /// What the plans are made of.
    pub seed: u64,
    /// How long one connection may take.
    pub limit: Duration,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            connections: 2000,
            concurrency: 2000,
            together: false,
            largest: 3 << 20,
            seed: 1,
            limit: Duration::from_secs(120),
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Connections, by how they were to go.
    pub played: BTreeMap<&'static str, u64>,
    /// Resets that reached the origin before the connection's id did.
    pub nameless: u64,
    /// Bytes that arrived, both ways together.
    pub bytes: u64,
    /// How long all of it took.
    pub took: Duration,
    /// Everything that should not have happened.
    pub violations: Vec<String>,
}

/// Listens as the origin behind a tunnel.
#[derive(Debug)]
pub struct Oracle {
    orders: Orders,
    listener: TcpListener,
}

/// What the origin knows.
#[derive(Debug, Default)]
struct Origin {
    heard: Mutex<HashMap<u64, Result<(), String>>>,
    nameless: Mutex<Vec<Result<(), String>>>,
    bytes: std::sync::atomic::AtomicU64,
}

impl Oracle {
    /// An oracle whose origin listens at `origin`.
    pub fn listen(orders: Orders, origin: SocketAddr) -> io::Result<Self> {
        let socket = if origin.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(origin)?;
        Ok(Self { orders, listener: socket.listen(4096)? })
    }

    /// Where the tunnel must lead to.
    pub fn origin(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Connects through the tunnel's public address until all connections have been played, and judges.
    pub async fn run(self, public: SocketAddr) -> Verdict {
        let Self { orders, listener } = self;
        let start = Instant::now();
        let (origin, serving) = (Arc::new(Origin::default()), TaskTracker::new());
        let accepting = tokio::spawn(accept(listener, origin.clone(), orders.clone(), serving.clone()));

        let mut verdict = Verdict::default();
        let mut clients = connect_all(&orders, public);
        while let Some(played) = clients.join_next().await {
            match played {
                Ok((bytes, Ok(()))) => verdict.bytes += bytes,
                Ok((_, Err(violation))) => verdict.violations.push(violation),
                Err(error) => verdict.violations.push(format!("a client panicked: {error}")),
            }
        }
        // The origin's ends have their own limits; they began later than the clients'.
        serving.close();
        if timeout(orders.limit, serving.wait()).await.is_err() {
            verdict.violations.push(format!("{} connections never ended at the origin", serving.len()));
        }
        accepting.abort();
        // The port is free when this is over.
        let _ = accepting.await;
        origin.judge(&orders, &mut verdict);
        verdict.took = start.elapsed();
        verdict
    }
}

impl Verdict {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shape, count) in &self.played {
            writeln!(f, "{count:>7}  {shape}")?;
        }
        writeln!(f, "{:>7}  resets before the origin knew whose", self.nameless)?;
        let mib = self.bytes as f64 / f64::from(1 << 20);
        writeln!(f, "{mib:>7.1}  MiB in {:.1} s", self.took.as_secs_f64())?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "VIOLATION {violation}")?;
        }
        writeln!(f, "{:>7}  violations", self.violations.len())
    }
}

fn connect_all(orders: &Orders, public: SocketAddr) -> JoinSet<(u64, Result<(), String>)> {
    let places = Arc::new(Semaphore::new(orders.concurrency));
    let together = orders.together.then(|| Arc::new(Barrier::new(orders.connections as usize)));
    let mut clients = JoinSet::new();
    for id in 0..orders.connections {
        let (orders, places, together) = (orders.clone(), places.clone(), together.clone());
        clients.spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            let plan = Plan::new(orders.seed, id, orders.largest);
            let (bytes, result) = client(&orders, id, &plan, public, together).await;
            (bytes, result.map_err(|why| format!("connection {id} ({plan:?}): the client {why}")))
        });
    }
    clients
}

async fn client(
    orders: &Orders,
    id: u64,
    plan: &Plan,
    public: SocketAddr,
    together: Option<Arc<Barrier>>,
) -> (u64, Result<(), String>) {
    let greeted = match timeout(orders.limit, greet(orders, id, public, together.is_some())).await {
        Ok(greeted) => greeted,
        Err(_) => Err("was not greeted in time".to_owned()),
    };
    if let Some(together) = together {
        together.wait().await;
    }
    let mut socket = match greeted {
        Ok(socket) => socket,
        Err(why) => return (0, Err(why)),
    };
    if plan.shape == Shape::ClientGivesUp {
        let reset = socket.set_zero_linger();
        return (0, reset.map_err(|error| format!("cannot be reset: {error}")));
    }
    let mut says = Pattern::new(orders.seed, id, Direction::ToOrigin);
    let mut hears = Pattern::new(orders.seed, id, Direction::ToClient);
    let script = plan.client();
    let played = timeout(orders.limit, async {
        if orders.together {
            send_header(&mut socket, orders, id).await?;
        } else {
            hear_greeting(&mut socket).await?;
        }
        play(socket, Ok(()), &script, &mut says, &mut hears).await
    });
    let result = played.await.unwrap_or_else(|_| Err("did not come to its end in time".to_owned()));
    (hears.position(), result.map_err(|why| format!("{why}; it had said {} bytes", says.position())))
}

/// Connects. Either the greeting comes first or the header does, so that both orders are seen.
async fn greet(orders: &Orders, id: u64, public: SocketAddr, greeting_first: bool) -> Result<TcpStream, String> {
    let mut socket = TcpStream::connect(public).await.map_err(|error| format!("cannot connect: {error}"))?;
    if greeting_first {
        hear_greeting(&mut socket).await?;
    } else {
        send_header(&mut socket, orders, id).await?;
    }
    Ok(socket)
}

async fn hear_greeting(socket: &mut TcpStream) -> Result<(), String> {
    let mut greeting = [0; GREETING.len()];
    socket.read_exact(&mut greeting).await.map_err(|error| format!("heard no greeting: {error}"))?;
    if greeting == *GREETING { Ok(()) } else { Err(format!("heard a wrong greeting: {greeting:?}")) }
}

async fn send_header(socket: &mut TcpStream, orders: &Orders, id: u64) -> Result<(), String> {
    let header = [orders.seed.to_be_bytes(), id.to_be_bytes()].concat();
    socket.write_all(&header).await.map_err(|error| format!("cannot say who it is: {error}"))
}

async fn accept(listener: TcpListener, origin: Arc<Origin>, orders: Orders, serving: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let (origin, orders) = (origin.clone(), orders.clone());
                serving.spawn(async move { origin.serve(socket, &orders).await });
            }
            Err(error) => {
                origin.lock_nameless().push(Err(format!("the origin cannot accept: {error}")));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Origin {
    async fn serve(&self, mut socket: TcpStream, orders: &Orders) {
        let (id, greeted) = match timeout(orders.limit, read_header(&mut socket, orders.seed)).await {
            Ok(Ok(header)) => header,
            Ok(Err(ended)) => return self.lock_nameless().push(ended),
            Err(_) => return self.lock_nameless().push(Err("a connection fell silent before its id".to_owned())),
        };
        let plan = Plan::new(orders.seed, id, orders.largest);
        let mut says = Pattern::new(orders.seed, id, Direction::ToClient);
        let mut hears = Pattern::new(orders.seed, id, Direction::ToOrigin);
        let script = plan.origin();
        let played = timeout(orders.limit, play(socket, greeted, &script, &mut says, &mut hears)).await;
        let result = played.unwrap_or_else(|_| Err("did not come to its end in time".to_owned()));
        let result = result.map_err(|why| {
            format!("connection {id} ({plan:?}): the origin {why}; it had said {} bytes", says.position())
        });
        self.bytes.fetch_add(hears.position(), std::sync::atomic::Ordering::Relaxed);
        if self.lock_heard().insert(id, result).is_some() {
            self.lock_nameless().push(Err(format!("connection {id} came to the origin twice")));
        }
    }

    fn judge(&self, orders: &Orders, verdict: &mut Verdict) {
        let mut heard = self.lock_heard();
        let mut missing = 0;
        for id in 0..orders.connections {
            let plan = Plan::new(orders.seed, id, orders.largest);
            *verdict.played.entry(plan.shape.name()).or_default() += 1;
            match heard.remove(&id) {
                Some(Ok(())) => {}
                Some(Err(violation)) => verdict.violations.push(violation),
                // A reset may overtake the id.
                None if matches!(plan.origin().expect, Expect::Reset(_)) => missing += 1,
                None => verdict.violations.push(format!("connection {id} ({plan:?}) never came to the origin")),
            }
        }
        for id in heard.keys() {
            verdict.violations.push(format!("connection {id} came to the origin and is none of ours"));
        }
        for nameless in self.lock_nameless().drain(..) {
            match nameless {
                Ok(()) => verdict.nameless += 1,
                Err(violation) => verdict.violations.push(violation),
            }
        }
        if verdict.nameless > missing {
            verdict.violations.push(format!("{} resets for {missing} connections", verdict.nameless));
        }
        verdict.bytes += self.bytes.load(std::sync::atomic::Ordering::Relaxed);
    }

    fn lock_heard(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Result<(), String>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_nameless(&self) -> std::sync::MutexGuard<'_, Vec<Result<(), String>>> {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id, and whether the greeting could be said; or that it was reset before that; or how it was wrong.
async fn read_header(socket: &mut TcpStream, seed: u64) -> Result<(u64, io::Result<()>), Result<(), String>> {
    let greeted = socket.write_all(GREETING).await;
    let mut header = [0; 16];
    match socket.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && greeted.is_ok() => {
            return Err(Err("a connection came to a clean end before its id".to_owned()));
        }
        Err(_) => return Err(Ok(())),
    }
    let (theirs, id) = header.split_at(8);
    if theirs != seed.to_be_bytes() {
        return Err(Err(format!("a connection began with what is no header: {header:?}")));
    }
    Ok((id.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)), greeted))
}

const GREETING: &[u8; 8] = b"oracle\r\n";

/// Of the violations; one bug usually makes many.
const SHOWN: usize = 20;
