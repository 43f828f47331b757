//! A carrier and fronts make a backend.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tunnel_api::{
    AddressRequest, Caller, Carry, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError,
    TunnelEvents, TunnelId, TunnelInfo, TunnelRef, TunnelUri, WatchFilter,
};

use crate::{
    carrier::{Admission, Carrier, DialFrom, WhereTo},
    clients::ClientFilter,
    events::Identity,
    front::Front,
    lease::Lease,
    presence::Lifetime,
    quotas::{Counted, Share},
    records::Unwritten,
    registry::{AfterRestart, DialIn, Record},
    relay::RelayTimes,
    sockets,
    tunnel::{Recording, Terms, Tunnel},
    tunnels::{NotOpened, Scope, Tunnels},
    uplink::{Uplink, UplinkTerms},
};

/// A backend of one carrier and any number of fronts.
pub struct Composed {
    /// Its name in the config, which requests choose it by.
    pub name: Arc<str>,
    /// The table its tunnels go on.
    pub tunnels: Arc<Tunnels>,
    /// How agents dial in.
    pub carrier: Arc<dyn Carrier>,
    /// How clients arrive; the first one is what a request gets that does not say.
    pub fronts: Vec<Arc<dyn Front>>,
    /// How long things last.
    pub times: Times,
    /// What `connections` may be at the most.
    pub max_connections: u32,
    /// Whether an unnamed tunnel for one connection ends with it.
    pub single_use: bool,
}

/// Where a restored tunnel's agents are to dial in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// Where they did.
    AsBefore,
    /// At another port, if need be.
    Nearby,
}

/// Why a tunnel is not restored.
#[derive(Debug)]
pub(crate) enum Unrestored {
    /// Its address cannot be had, or its backend cannot run it.
    Address(TunnelError),
    /// Its agents cannot dial in where they did.
    DialIn(TunnelError),
}

impl Unrestored {
    pub(crate) fn error(&self) -> &TunnelError {
        let (Self::Address(error) | Self::DialIn(error)) = self;
        error
    }
}

/// How long things last. Each is a config key.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// An unnamed tunnel must be dialled within, unless the request says otherwise.
    pub dial_within: Duration,
    /// An unnamed tunnel outlives its agents by.
    pub grace: Duration,
    /// A named tunnel waits for its first agent, and outlives its agents, by.
    pub named_grace: Duration,
    /// A client waits for an agent.
    pub client_wait: Duration,
    /// The relay's times.
    pub relay: RelayTimes,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            dial_within: Duration::from_secs(60),
            grace: Duration::from_secs(5 * 60),
            named_grace: Duration::from_secs(24 * 3600),
            client_wait: Duration::from_secs(10),
            relay: RelayTimes::default(),
        }
    }
}

#[async_trait]
impl TunnelBackend for Composed {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        self.tunnels.check_not_draining()?;
        let share = self.tunnels.quotas.share(caller);
        share.ask_to_open()?;
        let request = self.without_what_makes_no_difference(request)?;
        self.check(&request)?;
        let Some(name) = &request.name else { return self.open_new(caller, request, share).await };

        let _turn = self.tunnels.turn(&caller.owner, name).await;
        if let Some(parked) = self.tunnels.parked.by_name(&caller.owner, name) {
            self.restore_late(parked).await?;
        }
        if let Some(tunnel) = self.tunnels.by_name(&caller.owner, name) {
            match self.open_again(&tunnel, caller, &request).await {
                Err(Unwritten::Over) => tunnel.closed().await,
                Err(Unwritten::Failed(error)) => return Err(error),
                Ok(opened) => return Ok(opened),
            }
        }
        self.open_new(caller, request, share).await
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        let tunnel = self.tunnels.by_uri(&self.scope(caller), uri).ok_or(TunnelError::NotFound)?;
        Ok(tunnel.address.clone())
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        if let Some(tunnel) = self.tunnels.find(&self.scope(caller), tunnel) {
            tunnel.close(tunnel_api::CloseReason::Requested);
            tunnel.closed().await;
            return Ok(());
        }
        if self.tunnels.close_parked(&caller.owner, tunnel).await { Ok(()) } else { Err(TunnelError::NotFound) }
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        Ok(self.tunnels.list(&self.scope(caller), page))
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        Ok(self.tunnels.watch(self.scope(caller), filter.clone()))
    }
}

impl Composed {
    /// Publishes the address, admits the agents, and has the tunnel recorded and put on the table. Up to that last step
    /// everything is held by leases in this future alone, so that dropping it undoes everything.
    async fn open_new(&self, caller: &Caller, request: OpenTunnel, share: Share) -> Result<OpenedTunnel, TunnelError> {
        let front = self.front(&request.address)?;
        let clients = ClientFilter::new(&request.client_allow, &request.client_deny);
        for _ in 0..SAME_URI_TRIES {
            let counted = Lease::holding(share.take(Counted::Tunnels)?);
            let about = Identity {
                id: new_id(),
                owner: caller.owner.clone(),
                name: request.name.clone(),
                backend: self.name.clone(),
            };
            let news = self.tunnels.news(about);
            let uplink = Uplink::new(
                self.uplink_terms(&request),
                self.lifetime(&request),
                news.clone(),
                clients.clone(),
                share.clone(),
            );
            let dial_from = DialFrom::new(self.networks(caller, &request));

            let (address, published) = front.publish(caller, &request.address, uplink.clone()).await?;
            let admission = self.admission(&request, news.id(), &dial_from, &address, WhereTo::Anywhere);
            let (uri, admitted) = self.carrier.admit(caller, admission, uplink.clone())?;

            let recorded = self.tunnels.records().of(news.id());
            let recording = Recording { recorded, after_restart: self.after_restart(&request) };
            let opening = (SystemTime::now(), recording, caller.credential.clone());
            let terms = Terms::of(request.clone());
            let tunnel = Tunnel::new(news, (uri, address), terms, dial_from, uplink, opening);
            let opened = tunnel.opened();
            match self.tunnels.open(Arc::new(tunnel), vec![admitted, published, counted]).await {
                Ok(()) => return Ok(opened),
                Err(NotOpened::Refused(error)) => return Err(error),
                Err(NotOpened::SameUri) => {}
            }
        }
        Err(TunnelError::internal("choosing a dial-in port", "the kernel keeps giving ports that tunnels still hold"))
    }

    /// The same tunnel again. Its owner has shown up, so its time starts anew, and if whoever may dial in is the owner
    /// itself, it is from where the owner is now.
    async fn open_again(
        &self,
        tunnel: &Tunnel,
        caller: &Caller,
        request: &OpenTunnel,
    ) -> Result<OpenedTunnel, Unwritten> {
        if tunnel.is_closing() {
            return Err(Unwritten::Over);
        }
        tunnel.check_same(&self.name, &Terms::of(request.clone())).map_err(Unwritten::Failed)?;
        tunnel.reopen(self.networks(caller, request), caller.credential.clone()).await?;
        Ok(tunnel.opened())
    }

    /// A tunnel that was open before the server was started: with the same id, address and ticket, and with its grace before
    /// it. Dropping the future leaves its record as it is.
    pub(crate) async fn restore(&self, record: &Record, place: Where) -> Result<(), Unrestored> {
        let request = record.terms.request(record.name.clone());
        let scheme = Some(record.address.scheme().to_owned());
        let front = self.front(&AddressRequest { scheme, ..AddressRequest::any() }).map_err(Unrestored::Address)?;
        let about = Identity {
            id: record.id.clone(),
            owner: record.owner.clone(),
            name: record.name.clone(),
            backend: self.name.clone(),
        };
        let news = self.tunnels.news(about);
        let share = self.tunnels.quotas.share(&record.caller());
        // It was let in before, whatever the limits are now.
        let counted = Lease::holding(share.take_again(Counted::Tunnels));
        let clients = ClientFilter::new(&request.client_allow, &request.client_deny);
        let uplink = Uplink::new(self.uplink_terms(&request), self.lifetime(&request), news.clone(), clients, share);
        uplink.resume();
        let dial_from = DialFrom::new(record.dial_from.clone());

        let published = front.publish_again(&record.owner, &record.address, uplink.clone()).await;
        let published = published.map_err(Unrestored::Address)?;
        let dial_in = match place {
            Where::AsBefore => WhereTo::AsBefore(&record.dial_in),
            Where::Nearby => WhereTo::Nearby(&record.dial_in),
        };
        let admission = self.admission(&request, &record.id, &dial_from, &record.address, dial_in);
        let admitted = self.carrier.admit(&record.caller(), admission, uplink.clone());
        let (uri, admitted) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                // Its port is free when the next attempt asks for it.
                published.release().await;
                return Err(Unrestored::DialIn(error));
            }
        };
        if uri.scheme() != record.dial_in.scheme {
            let why = format!("backend {} was another kind of backend before", self.name);
            return Err(Unrestored::Address(TunnelError::internal("restoring a tunnel", why)));
        }

        let has_moved = DialIn::of(&uri) != record.dial_in;
        let recorded = self.tunnels.records().found(&record.id);
        let recording = Recording { recorded, after_restart: Some(record.after_restart) };
        let opening = (record.open_time, recording, record.credential.clone());
        let (address, terms) = (record.address.clone(), record.terms.clone());
        let tunnel = Tunnel::new(news, (uri, address), terms, dial_from, uplink, opening);
        self.tunnels
            .take_back(Arc::new(tunnel), vec![admitted, published, counted], has_moved)
            .await
            .map_err(Unrestored::Address)
    }

    /// What could not be restored when the server was started may be possible now.
    async fn restore_late(&self, record: Record) -> Result<(), TunnelError> {
        if *record.backend != *self.name {
            return Err(TunnelError::NameConflict {
                name: record.name.as_ref().map(ToString::to_string).unwrap_or_default(),
                difference: format!("backend {}", record.backend),
            });
        }
        let restored = match self.restore(&record, Where::AsBefore).await {
            Err(Unrestored::DialIn(_)) => self.restore(&record, Where::Nearby).await,
            other => other,
        };
        restored.map_err(|unrestored| TunnelError::Unavailable {
            why: format!(
                "the server was started anew and has this tunnel, but cannot have its address {}: {}; \
                 try again, or close the tunnel to open it at another address",
                record.address,
                unrestored.error()
            ),
            retry_after: Some(RESTORE_AGAIN),
        })
    }

    fn admission<'a>(
        &self,
        request: &OpenTunnel,
        id: &'a TunnelId,
        dial_from: &DialFrom,
        address: &'a PublicAddress,
        dial_in: WhereTo<'a>,
    ) -> Admission<'a> {
        Admission {
            id,
            dial_from: dial_from.clone(),
            connections: connections(request),
            single_use: self.is_single_use(request),
            proxy_protocol: request.proxy_protocol,
            address,
            dial_in,
        }
    }

    /// What of a tunnel outlives the server. An unnamed one with a port of its own to dial is of no use to agents that cannot
    /// tell it from another one there; one for a single connection ends with it.
    fn after_restart(&self, request: &OpenTunnel) -> Option<AfterRestart> {
        if !self.tunnels.records().are_kept() {
            return None;
        }
        if request.name.is_some() || self.carrier.knows_its_agents() {
            return Some(AfterRestart::Restored);
        }
        let asks_for_one = Terms::of(request.clone()).asks_for_its_address();
        let leaves_an_address = !self.is_single_use(request) || asks_for_one;
        leaves_an_address.then_some(AfterRestart::AddressKept)
    }

    /// So that two requests which differ in nothing else are for the same tunnel.
    fn without_what_makes_no_difference(&self, mut request: OpenTunnel) -> Result<OpenTunnel, TunnelError> {
        if self.carrier.carries_many() {
            (request.connections, request.proxy_protocol) = (Some(1), true);
        }
        request.address = self.front(&request.address)?.canonical(request.address);
        request.carry = Some(self.carry(&request)?);
        Ok(request)
    }

    /// What is to travel to the agents: requests, where clients make some and the wire can carry them.
    fn carry(&self, request: &OpenTunnel) -> Result<Carry, TunnelError> {
        let scheme = request.address.scheme.as_deref().unwrap_or_default();
        let are_web = matches!(scheme, "http" | "https");
        match request.carry {
            Some(Carry::Requests) if !are_web => {
                let why = "only the clients of http and https addresses make requests; leave it empty";
                Err(TunnelError::invalid("carry", why))
            }
            Some(Carry::Requests) if !self.carrier.carries_requests() => {
                let why = format!("backend {} carries connections only; leave it empty", self.name);
                Err(TunnelError::invalid("carry", why))
            }
            Some(carry) => Ok(carry),
            None if are_web && self.carrier.carries_requests() => Ok(Carry::Requests),
            None => Ok(Carry::Connections),
        }
    }

    fn check(&self, request: &OpenTunnel) -> Result<(), TunnelError> {
        if let Some(other) = request.backend.as_deref().filter(|name| **name != *self.name) {
            return Err(TunnelError::invalid("backend", format!("this is {}, not {other}; leave it empty", self.name)));
        }
        let most = self.max_connections;
        if connections(request) > most {
            return Err(TunnelError::invalid(
                "connections",
                format!("at most {most} dial-ins may wait here; ask for fewer"),
            ));
        }
        if request.dial_within.is_some_and(|within| within.is_zero() || within > self.times.named_grace) {
            let most = self.times.named_grace.as_secs();
            return Err(TunnelError::invalid("dial_within", format!("must be above 0 s and at most {most} s")));
        }
        self.front(&request.address).map(|_| ())
    }

    fn front(&self, wanted: &AddressRequest) -> Result<&Arc<dyn Front>, TunnelError> {
        let Some(scheme) = &wanted.scheme else {
            return self.fronts.first().ok_or(TunnelError::Unsupported { call: "OpenTunnel" });
        };
        self.fronts.iter().find(|front| front.schemes().contains(&scheme.as_str())).ok_or_else(|| {
            let offered: Vec<_> =
                self.fronts.iter().flat_map(|front| front.schemes()).map(|scheme| format!("{scheme}://")).collect();
            let why = format!("backend {} has no {scheme}:// addresses; it offers {}", self.name, offered.join(", "));
            TunnelError::invalid("address", why)
        })
    }

    /// Who may dial in: whom the request names; else, where the wire itself knows its agents, anybody; else the one on whose
    /// behalf the request is made; else whoever makes it; else, for a caller in this process, this host.
    fn networks(&self, caller: &Caller, request: &OpenTunnel) -> Vec<ipnet::IpNet> {
        if !request.dial_from.is_empty() {
            return request.dial_from.clone();
        }
        if self.carrier.knows_its_agents() {
            return sockets::everybody();
        }
        match request.caller_address.or(caller.peer_ip()) {
            Some(pin) => vec![sockets::network_of(pin)],
            None => sockets::loopback(),
        }
    }

    fn is_single_use(&self, request: &OpenTunnel) -> bool {
        self.single_use && request.name.is_none() && connections(request) == 1
    }

    fn uplink_terms(&self, request: &OpenTunnel) -> UplinkTerms {
        UplinkTerms {
            client_wait: self.times.client_wait,
            single_use: self.is_single_use(request),
            carry: request.carry.unwrap_or(Carry::Connections),
            relay: self.times.relay,
        }
    }

    fn lifetime(&self, request: &OpenTunnel) -> Lifetime {
        let times = &self.times;
        let (dial_within, grace) = match &request.name {
            Some(_) => (times.named_grace, Some(times.named_grace)),
            None if self.is_single_use(request) => (times.dial_within, None),
            None => (times.dial_within, Some(times.grace)),
        };
        Lifetime { dial_within: request.dial_within.unwrap_or(dial_within), grace }
    }

    fn scope(&self, caller: &Caller) -> Scope {
        Scope { owner: caller.owner.clone(), backend: self.name.clone() }
    }
}

impl std::fmt::Debug for Composed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Composed").field("name", &self.name).finish_non_exhaustive()
    }
}

fn connections(request: &OpenTunnel) -> u32 {
    request.connections.unwrap_or(1).max(1)
}

/// 64 random bits: never used twice, and no secret.
fn new_id() -> TunnelId {
    let id = format!("t-{:016x}", rand::random::<u64>());
    // Letters, digits and a dash make an id.
    id.parse().expect("an id")
}

/// A port of the kernel's choice may be one that a tunnel holds without listening on it.
const SAME_URI_TRIES: usize = 8;

/// For whoever opens a tunnel whose address is somebody else's at the moment.
const RESTORE_AGAIN: Duration = Duration::from_secs(30);
