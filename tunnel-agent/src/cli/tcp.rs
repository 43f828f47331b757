use std::{io::IsTerminal, time::Instant};

use tunnel_agent::{AgentState, ForwardCounts, Forwarding, Tunnel, TunnelListener};
use tunnel_backends::process::StopSignals;

use super::{
    args::{Output, Tcp},
    failure::Failure,
    json,
    screen::Screen,
    server::Server,
    status,
    stdout::{self, Reader},
    units::{bytes, count, duration},
};

/// `tunnel tcp`.
pub(crate) async fn run(args: &Tcp, server: &Server, screen: &Screen) -> Result<(), Failure> {
    // Before anybody can know that we run.
    let mut signals = StopSignals::catch()?;
    let mut listener = tokio::select! {
        opened = open(args, server) => opened?,
        () = signals.next() => return Ok(()),
    };
    if let Err(failure) = announce(args, &listener) {
        listener.leave().await;
        return Err(failure);
    }
    greet(args, &listener, screen);

    let since = Instant::now();
    let forwarding = forwarding(args);
    let (meter, state) = (forwarding.meter(), listener.state());
    let end = tokio::select! {
        () = listener.forward(forwarding) => Err(closed(*listener.state().borrow())),
        never = status::tell(screen, state, &meter) => match never {},
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
        part(args, &meter.read(), since, screen);
    }
    end
}

async fn open(args: &Tcp, server: &Server) -> Result<TunnelListener, Failure> {
    let mut tunnel = Tunnel::tcp().port(args.port.map_or(0, u16::from)).sessions(args.sessions.into());
    tunnel = tunnel.allow_clients(args.allow.iter().copied()).deny_clients(args.deny.iter().copied());
    if let Some(backend) = &args.backend {
        tunnel = tunnel.backend(backend);
    }
    if let Some(name) = &args.name {
        tunnel = tunnel.name(name.as_str());
    }
    for (key, value) in &args.labels {
        tunnel = tunnel.label(key, value);
    }
    Ok(server.agent().await?.open(tunnel).await?)
}

/// Not by us.
fn closed(state: AgentState) -> Failure {
    match state {
        AgentState::Refused => Failure::refused("the tunnel server refuses the credentials; the tunnel is closed"),
        _ => Failure::new("the tunnel was closed by somebody else"),
    }
}

fn forwarding(args: &Tcp) -> Forwarding {
    let forwarding = Forwarding::to(args.target.clone());
    if args.proxy_protocol { forwarding.with_proxy_header() } else { forwarding }
}

/// The one line on stdout. Without it nobody would know the address, so it must get through.
fn announce(args: &Tcp, listener: &TunnelListener) -> Result<(), Failure> {
    let line = match args.output {
        Output::Text => format!("{}\n", listener.address()),
        Output::Json => json::line(&json::Opened {
            id: listener.id().to_string(),
            address: listener.address().to_string(),
            name: args.name.as_ref().map(ToString::to_string),
            target: args.target.to_string(),
        })?,
    };
    match stdout::print(&line)? {
        Reader::Listens => Ok(()),
        Reader::HasGone => {
            Err(Failure::new("nobody reads stdout, where the public address goes; the tunnel is given up"))
        }
    }
}

fn greet(args: &Tcp, listener: &TunnelListener, screen: &Screen) {
    if args.output == Output::Text && std::io::stdout().is_terminal() {
        // Who reads this has just read the address.
        screen.note(&format!("forwards to {}", args.target));
    } else {
        screen.note(&format!("{} -> {}", listener.address(), args.target));
    }
    screen.note(&format!("if it speaks HTTP: {}", listener.address().to_http()));
    screen.note(&match &args.name {
        Some(name) => format!("Ctrl-C stops; the address stays yours for a day, `tunnel close {name}` gives it up"),
        None => "Ctrl-C stops and closes the tunnel".to_owned(),
    });
}

fn part(args: &Tcp, counts: &ForwardCounts, since: Instant, screen: &Screen) {
    let (into, out) = (bytes(counts.bytes_to_service), bytes(counts.bytes_to_clients));
    let (mut clients, time) = (count(counts.clients, "client"), duration(since.elapsed()));
    if counts.turned_away > 0 {
        clients.push_str(&format!(" ({} turned away)", counts.turned_away));
    }
    screen.note(&format!("stopped after {time}: {clients}, {into} in, {out} out"));
    if let Some(name) = &args.name {
        screen.note(&format!("the address stays yours for a day; `tunnel close {name}` gives it up"));
    }
}
