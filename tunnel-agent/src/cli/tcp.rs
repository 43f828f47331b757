use std::time::Instant;

use tunnel_agent::{Forwarding, Target, Tunnel};
use tunnel_backends::process::StopSignals;

use super::{
    args::{Opening, Tcp, Tls},
    failure::Failure,
    opening::closed,
    screen::Screen,
    server::Server,
    status::{self, Counted},
    units::count,
};

/// `tunnel tcp`.
pub(crate) async fn run(args: &Tcp, server: &Server, screen: &Screen) -> Result<(), Failure> {
    let tunnel = Tunnel::tcp().port(args.port.map_or(0, u16::from));
    forward(tunnel, &args.target, args.proxy_protocol, &args.opening, server, screen).await
}

/// `tunnel tls`.
pub(crate) async fn run_tls(args: &Tls, server: &Server, screen: &Screen) -> Result<(), Failure> {
    let mut tunnel = Tunnel::tls();
    if let Some(host) = &args.host {
        tunnel = tunnel.host(host);
    }
    forward(tunnel, &args.target, args.proxy_protocol, &args.opening, server, screen).await
}

/// Passes on clients' connections.
async fn forward(
    tunnel: Tunnel,
    target: &Target,
    with_proxy_header: bool,
    opening: &Opening,
    server: &Server,
    screen: &Screen,
) -> Result<(), Failure> {
    // Before anybody can know that we run.
    let mut signals = StopSignals::catch()?;
    let open = async { Ok::<_, Failure>(server.agent().await?.open(opening.of(tunnel)).await?) };
    let mut listener = tokio::select! {
        opened = open => opened?,
        () = signals.next() => return Ok(()),
    };
    if let Err(failure) = opening.announce(listener.id(), listener.address(), target) {
        listener.leave().await;
        return Err(failure);
    }
    opening.tell_target(listener.address(), target, screen);
    if listener.address().scheme() == "tcp" {
        screen.note(&format!("if it speaks HTTP: {}", listener.address().to_http()));
    }
    opening.tell_way_out(screen);

    let since = Instant::now();
    let forwarding = Forwarding::to(target.clone());
    let forwarding = if with_proxy_header { forwarding.with_proxy_header() } else { forwarding };
    let (meter, state) = (forwarding.meter(), listener.state());
    let end = tokio::select! {
        () = listener.forward(forwarding) => Err(closed(*listener.state().borrow())),
        never = status::tell(screen, state, Counted::Clients, || meter.read()) => match never {},
        () = signals.next() => Ok(()),
    };
    screen.show("");

    // Closes the tunnel, or leaves it to our next start if it has a name; clients that are cut off see a reset. Who asks
    // twice does not want to wait for a server that is away.
    tokio::select! {
        () = listener.leave() => {}
        () = signals.next() => {}
    }
    if end.is_ok() {
        let counts = meter.read();
        let mut clients = count(counts.clients, "client");
        if counts.turned_away > 0 {
            clients.push_str(&format!(" ({} turned away)", counts.turned_away));
        }
        opening.part(&clients, &counts, since, screen);
    }
    end
}
