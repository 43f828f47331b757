//! A tunnel is a lease: it lasts as long as was agreed, nobody else gets it in between, and then it gives back everything.

use std::{
    collections::BTreeSet,
    future::Future,
    ops::RangeInclusive,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::task::JoinSet;
use tunnel_api::{AddressRequest, CloseReason, Labels, OpenTunnel, OpenedTunnel, StreamEnd, TunnelError, TunnelRef};

use super::{
    Rig, Setup, Stage, TestAgent,
    client::{Heard, connect, hear, hear_exactly, refuses, say, say_all, socket_addr},
    echo, eventually,
    rig::{WAITING, all_free, free_ports, is_free, named, request, tunnel_name},
};
use crate::{
    composed::Times,
    ports::{PortPool, PortRange},
    sockets,
};

/// All of that has happened when the call returns.
pub async fn closing_a_tunnel_resets_its_streams_and_frees_its_port(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut watch = stage.watch().await;
    let tunnel = stage.open(WAITING).await;
    let mut agent = TestAgent::dial(&tunnel.uri, WAITING);
    let mut client = connect(&tunnel.address).await;
    say(&mut client, b"!").await;
    let mut stream = agent.accept().await;
    hear_exactly(&mut stream.io, 1).await;

    stage.close(TunnelRef::Uri(tunnel.uri.clone())).await.expect("the tunnel closes");
    assert!(refuses(socket_addr(&tunnel.address)).await, "somebody still listens at the address");
    assert!(is_free(tunnel.address.port()), "the port cannot be bound again");
    let found = stage.address(&tunnel.uri).await;
    assert!(matches!(found, Err(TunnelError::NotFound)), "{found:?}");
    let again = stage.close(TunnelRef::Uri(tunnel.uri.clone())).await;
    assert!(matches!(again, Err(TunnelError::NotFound)), "{again:?}");

    assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
    let heard = hear(&mut stream.io).await;
    assert!(heard.end.is_err(), "the agent heard {heard:?}");
    assert_eq!(watch.ended().await.end, StreamEnd::TunnelClosed);
    assert_eq!(watch.closed(&tunnel.id).await, CloseReason::Requested);
}

/// They need not wait for an agent that cannot come.
pub async fn closing_a_tunnel_resets_the_clients_that_wait(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let mut client = connect(&tunnel.address).await;
    stage.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
    assert_eq!(hear(&mut client).await, Heard::reset_after(&[]));
}

/// Its URI, its id, its owner's name for it.
pub async fn a_tunnel_is_closed_by_any_of_its_names(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let names: [fn(&OpenedTunnel) -> TunnelRef; 3] = [
        |tunnel| TunnelRef::Uri(tunnel.uri.clone()),
        |tunnel| TunnelRef::Id(tunnel.id.clone()),
        |_| TunnelRef::Name(tunnel_name("closed")),
    ];
    for name in names {
        let tunnel = stage.open_named("closed").await;
        stage.close(name(&tunnel)).await.expect("the tunnel closes");
        assert_eq!(stage.list().await, []);
    }
}

/// Wherever it is dropped.
pub async fn an_open_that_is_dropped_reserves_nothing(rig: &dyn Rig) {
    let pools = Pools::new();
    let stage = Stage::with(rig, pools.setup());
    for wanted in [request(WAITING), named("dropped")] {
        for polls in 0.. {
            let mut opening = Box::pin(stage.try_open(wanted.clone()));
            let mut opened = None;
            for _ in 0..polls {
                if let Poll::Ready(result) = opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    opened = Some(result.expect("a tunnel"));
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(opening);
            if let Some(opened) = opened {
                stage.close(TunnelRef::Id(opened.id)).await.expect("the tunnel closes");
                break;
            }
            assert_eq!(stage.list().await, []);
        }
        eventually("all ports to be free", async || pools.all_free()).await;
    }
}

/// Whatever it fails for.
pub async fn an_open_that_fails_reserves_nothing(rig: &dyn Rig) {
    let pools = Pools::new();
    let stage = Stage::with(rig, pools.setup());
    let port = *pools.public.start();
    let wanted = OpenTunnel { address: AddressRequest::tcp_port(port), ..named("failed") };
    let foreign = sockets::listen(([127, 0, 0, 1], port).into()).expect("a port of somebody else's");
    let failed = stage.try_open(wanted.clone()).await;
    assert!(matches!(failed, Err(TunnelError::AddressTaken { .. })), "{failed:?}");
    drop(foreign);
    let failed = stage.try_open(OpenTunnel { backend: Some("no-such-backend".to_owned()), ..wanted.clone() }).await;
    assert!(matches!(failed, Err(TunnelError::Invalid { .. })), "{failed:?}");

    assert_eq!(stage.list().await, []);
    eventually("all ports to be free", async || pools.all_free()).await;
    stage.try_open(wanted).await.expect("what failed before");
}

/// And nobody else gets it as long as it is open.
pub async fn a_wanted_port_is_given(rig: &dyn Rig) {
    let pools = Pools::new();
    let stage = Stage::with(rig, pools.setup());
    let port = *pools.public.end();
    let wanted = OpenTunnel { address: AddressRequest::tcp_port(port), ..request(WAITING) };
    let tunnel = stage.try_open(wanted.clone()).await.expect("the wanted port");
    assert_eq!(tunnel.address.port(), port);
    let other = stage.called_by("other").try_open(wanted.clone()).await;
    assert!(
        matches!(&other, Err(TunnelError::AddressTaken { address }) if address.contains(&port.to_string())),
        "{other:?}"
    );

    stage.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
    stage.called_by("other").try_open(wanted).await.expect("the same port, at once");
}

/// And says the same of it.
pub async fn opening_a_name_again_gives_the_same_tunnel(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let first = stage.open_named("again").await;
    let _agent = TestAgent::dial(&first.uri, WAITING).serve(echo);
    let again = stage.open_named("again").await;
    assert_eq!((&again.id, &again.uri, &again.address), (&first.id, &first.uri, &first.address));
    assert_eq!(stage.list().await.len(), 1);

    // What is left out, or spelled out as it is, is no difference.
    let spelled_out = OpenTunnel { address: AddressRequest::exactly(&first.address), ..named("again") };
    assert_eq!(stage.try_open(spelled_out).await.map(|tunnel| tunnel.id).ok(), Some(first.id));
}

/// However many ask.
pub async fn opening_a_name_at_once_gives_one_tunnel(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    for name in ["one", "two", "three", "four", "five"] {
        let mut opening = JoinSet::new();
        for _ in 0..20 {
            let stage = stage.clone();
            opening.spawn(async move { stage.open_named(name).await.id });
        }
        let ids: BTreeSet<_> = opening.join_all().await.into_iter().collect();
        assert_eq!(ids.len(), 1, "{name} is {ids:?}");
    }
    assert_eq!(stage.list().await.len(), 5);
}

/// Which names the name and what it is open with.
pub async fn a_name_with_other_parameters_is_a_conflict(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open_named("taken").await;
    let as_it_is = || named("taken");
    let dial_from = vec!["192.0.2.0/24".parse().expect("a network")];
    let labels = Labels::from([("team".to_owned(), "blue".to_owned())]);
    let port = tunnel.address.port();
    let dial_ins = [
        (OpenTunnel { connections: Some(WAITING + 1), ..as_it_is() }, format!("connections {WAITING}")),
        (OpenTunnel { proxy_protocol: false, ..as_it_is() }, "proxy_protocol true".to_owned()),
    ];
    let mut cases = vec![
        (OpenTunnel { address: AddressRequest::tcp_port(port ^ 1), ..as_it_is() }, tunnel.address.to_string()),
        (OpenTunnel { dial_from, ..as_it_is() }, "dial_from".to_owned()),
        (OpenTunnel { dial_within: Some(Duration::from_secs(7)), ..as_it_is() }, "dial_within".to_owned()),
        (OpenTunnel { labels, ..as_it_is() }, "labels".to_owned()),
    ];
    if rig.carries_many() {
        // There these make no difference.
        for (same, _) in dial_ins {
            assert_eq!(stage.try_open(same).await.ok().map(|tunnel| tunnel.id), Some(tunnel.id.clone()));
        }
    } else {
        cases.extend(dial_ins);
    }
    for (other, difference) in cases {
        match stage.try_open(other).await {
            Err(TunnelError::NameConflict { name, difference: told }) => {
                assert_eq!(name, "taken");
                assert!(told.contains(&difference), "{told} does not name {difference}");
            }
            other => panic!("no conflict over {difference}: {other:?}"),
        }
    }
    assert_eq!(stage.open_named("taken").await.id, tunnel.id);
}

/// Its owner's next agent finds it where it was.
pub async fn a_named_tunnel_keeps_its_address_while_its_agents_are_away(rig: &dyn Rig) {
    let times = Times { grace: Duration::ZERO, ..Times::default() };
    let stage = Stage::with(rig, Setup::timed(times));
    let mut watch = stage.watch().await;
    let tunnel = stage.open_named("kept").await;
    let agent = TestAgent::dial(&tunnel.uri, WAITING).serve(echo);
    assert_eq!(echoed(&tunnel).await, Heard::finished_after(b"?"));
    agent.kill().await;
    watch.agent_lost(&tunnel.id).await;

    assert_eq!(stage.address(&tunnel.uri).await.ok().as_ref(), Some(&tunnel.address));
    assert!(!is_free(tunnel.address.port()), "somebody else can have the address");
    let again = stage.open_named("kept").await;
    assert_eq!((&again.id, &again.uri, &again.address), (&tunnel.id, &tunnel.uri, &tunnel.address));
    let _agent = TestAgent::dial(&again.uri, WAITING).serve(echo);
    assert_eq!(echoed(&tunnel).await, Heard::finished_after(b"?"));
}

/// Two owners may use the same one.
pub async fn a_name_is_its_owners_own(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let other = stage.called_by("other");
    let (mine, theirs) = (stage.open_named("web").await, other.open_named("web").await);
    assert_ne!(mine.id, theirs.id);
    assert_ne!(mine.uri, theirs.uri);
    other.close(TunnelRef::Name(tunnel_name("web"))).await.expect("their tunnel closes");
    assert_eq!(stage.address(&mine.uri).await.ok(), Some(mine.address));
}

/// One without a name has a grace.
pub async fn an_agent_that_comes_back_in_time_finds_its_tunnel(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut watch = stage.watch().await;
    let tunnel = stage.open(WAITING).await;
    for _ in 0..3 {
        let agent = TestAgent::dial(&tunnel.uri, WAITING).serve(echo);
        assert_eq!(echoed(&tunnel).await, Heard::finished_after(b"?"));
        agent.kill().await;
        watch.agent_lost(&tunnel.id).await;
    }
}

/// And gives everything back.
pub async fn a_tunnel_that_nobody_dials_closes(rig: &dyn Rig) {
    let pools = Pools::new();
    let times = Times { dial_within: Duration::from_millis(50), ..Times::default() };
    let stage = Stage::with(rig, Setup { times, ..pools.setup() });
    let mut watch = stage.watch().await;
    let patient = OpenTunnel { dial_within: Some(Duration::from_secs(3600)), ..request(WAITING) };
    let patient = stage.try_open(patient).await.expect("a tunnel");
    let named = stage.open_named("named").await;
    for connections in [1, WAITING] {
        let tunnel = stage.open(connections).await;
        assert_eq!(watch.closed(&tunnel.id).await, CloseReason::NotDialled);
        let found = stage.address(&tunnel.uri).await;
        assert!(matches!(found, Err(TunnelError::NotFound)), "{found:?}");
        assert!(is_free(tunnel.address.port()), "the port cannot be bound again");
    }
    assert_eq!(stage.list().await.len(), 2, "a longer time that was asked for, or a name's, does not count");

    stage.close(TunnelRef::Id(patient.id)).await.expect("the tunnel closes");
    stage.close(TunnelRef::Id(named.id)).await.expect("the tunnel closes");
    assert!(pools.all_free(), "not all ports are free");
}

/// The grace is over.
pub async fn a_tunnel_closes_when_its_agents_are_gone_for_too_long(rig: &dyn Rig) {
    let pools = Pools::new();
    // A name's is also the time within which it has to be dialled at first: enough of it for a busy machine.
    let (grace, named_grace) = (Duration::from_millis(50), Duration::from_secs(1));
    let stage = Stage::with(rig, Setup { times: Times { grace, named_grace, ..Times::default() }, ..pools.setup() });
    let mut watch = stage.watch().await;
    for wanted in [request(WAITING), named("named")] {
        let tunnel = stage.try_open(wanted).await.expect("a tunnel");
        let agent = TestAgent::dial(&tunnel.uri, WAITING);
        watch.agent_connected(&tunnel.id).await;
        agent.kill().await;
        watch.agent_lost(&tunnel.id).await;
        assert_eq!(watch.closed(&tunnel.id).await, CloseReason::AgentLost);
        assert!(is_free(tunnel.address.port()), "the port cannot be bound again");
    }
    assert!(pools.all_free(), "not all ports are free");
}

/// What an echo says to a question.
async fn echoed(tunnel: &OpenedTunnel) -> Heard {
    let mut client = connect(&tunnel.address).await;
    say_all(&mut client, b"?").await;
    hear(&mut client).await
}

/// Ports that can be counted.
struct Pools {
    public: RangeInclusive<u16>,
    public_ports: Arc<PortPool>,
    dial_in: RangeInclusive<u16>,
    dial_in_ports: Arc<PortPool>,
}

impl Pools {
    fn new() -> Self {
        let both = free_ports(16);
        let middle = both.start() + 8;
        let pool = |ports: &RangeInclusive<u16>| PortPool::new(PortRange::Between(ports.clone()), BTreeSet::new());
        let (public, dial_in) = (*both.start()..=middle - 1, middle..=*both.end());
        Self { public_ports: pool(&public), dial_in_ports: pool(&dial_in), public, dial_in }
    }

    fn setup(&self) -> Setup {
        let (public_ports, dial_in_ports) = (self.public_ports.clone(), self.dial_in_ports.clone());
        Setup { public_ports, dial_in_ports, ..Setup::default() }
    }

    fn all_free(&self) -> bool {
        all_free(&self.public_ports, &self.public) && all_free(&self.dial_in_ports, &self.dial_in)
    }
}
