use futures_util::StreamExt;
use tunnel_api::{
    AgentLoss, Caller, CloseReason, StreamEnd, TunnelBackend, TunnelError, TunnelEvent, TunnelEvents, TunnelInfo,
    TunnelName, TunnelState, WatchFilter, What,
};
use tunnel_backends::process::StopSignals;

use super::{
    args::{Output, Watch},
    close::id,
    failure::{Failure, innermost},
    json, requests,
    screen::Screen,
    server::Server,
    stdout::{self, Reader},
    units::{bytes, count, duration, printable, seconds},
};

/// `tunnel watch`.
pub(crate) async fn run(args: &Watch, server: &Server, screen: &Screen) -> Result<(), Failure> {
    let mut signals = StopSignals::catch()?;
    tokio::select! {
        end = watch(args, server, screen) => end,
        () = signals.next() => Ok(()),
    }
}

async fn watch(args: &Watch, server: &Server, screen: &Screen) -> Result<(), Failure> {
    let backend = server.connect().await?;
    let filter = WatchFilter { requests: args.requests, no_clients: args.no_clients, ..WatchFilter::default() };
    if let Some(id) = args.tunnel.as_ref().and_then(|text| id(text.as_str())) {
        let filter = WatchFilter { id: Some(id), ..filter.clone() };
        match tell(backend.watch_tunnels(&Caller::embedded(), &filter).await?, args.output, Watched::Id).await? {
            End::NeverThere => {}
            End::Over => return Ok(()),
        }
    }
    let filter = WatchFilter { name: args.tunnel.clone(), ..filter };
    let watched = match &args.tunnel {
        None => Watched::All,
        Some(name) => Watched::Name(screen, name),
    };
    tell(backend.watch_tunnels(&Caller::embedded(), &filter).await?, args.output, watched).await.map(drop)
}

/// Whose news it is.
enum Watched<'a> {
    All,
    /// What closes or is not there will never be there again.
    Id,
    /// It may be opened later.
    Name(&'a Screen, &'a TunnelName),
}

enum End {
    /// There is nothing more to tell, or nobody to tell it to.
    Over,
    NeverThere,
}

async fn tell(mut events: TunnelEvents, output: Output, watched: Watched<'_>) -> Result<End, Failure> {
    let mut is_there = false;
    let has_colours = Screen::stdout_has_colours();
    loop {
        let event = match events.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(lost(error)),
            None => return Err(gone("it ended the watch")),
        };
        is_there |= matches!(event.what, What::Present(_));
        if matches!(event.what, What::Ready) && !is_there {
            match watched {
                Watched::All => {}
                Watched::Id => return Ok(End::NeverThere),
                Watched::Name(screen, name) => screen.note(&waiting(name)),
            }
        }
        let line = match output {
            Output::Text => text(&event, has_colours),
            Output::Json => json::line(&json::Event::from(&event))?,
        };
        let was_last = matches!((&watched, &event.what), (Watched::Id, What::Closed { .. }));
        if stdout::print(&line)? == Reader::HasGone || was_last {
            return Ok(End::Over);
        }
    }
}

/// An id that is not there will never be, but it may also be a name.
fn waiting(name: &TunnelName) -> String {
    match id(name.as_str()) {
        Some(id) => format!("no tunnel has the id {id} (any more?); waiting for one with this name"),
        None => format!("no tunnel named {name} is open; waiting for one"),
    }
}

/// By now it was a tunnel server: a connection that breaks means that it went away.
fn lost(error: TunnelError) -> Failure {
    match &error {
        TunnelError::Unavailable { why, .. } => gone(why),
        TunnelError::Internal { source, .. } => match source.downcast_ref().and_then(innermost) {
            Some(cause) => gone(&cause.to_string()),
            None => error.into(),
        },
        _ => error.into(),
    }
}

fn gone(why: &str) -> Failure {
    Failure::unreachable(format!("the tunnel server went away: {}", printable(why)))
}

/// One line.
fn text(event: &TunnelEvent, has_colours: bool) -> String {
    let id = event.tunnel.as_ref().map_or("-", |id| id.as_str());
    format!("{}  {id}  {}\n", seconds(event.time), what(&event.what, has_colours))
}

fn what(what: &What, has_colours: bool) -> String {
    match what {
        What::Present(info) => format!("is open: {}, {}", whole(info), state(info)),
        What::Ready => "ready: that is all there is now, the news follows".to_owned(),
        What::Opened(info) => format!("opened: {}", whole(info)),
        What::AgentConnected { agent, took_over: None } => format!("agent connected from {agent}"),
        What::AgentConnected { agent, took_over: Some(earlier) } => {
            format!("agent connected from {agent}, in place of its connection from {earlier}")
        }
        What::AgentLost { expire_time, loss } => {
            let how = match loss {
                AgentLoss::HungUp => "hung up",
                AgentLoss::Silent => "fell silent",
                AgentLoss::Misbehaved => "broke its protocol's rules",
            };
            format!("agent lost: it {how}; closes at {} unless one comes back", seconds(*expire_time))
        }
        What::ClientConnected { stream, client } => format!("client {stream} connected from {client}"),
        What::ClientEnded { stream, client, end, bytes_to_agent, bytes_to_client, duration: time } => format!(
            "client {stream} from {client} {}: {} in, {} out, {}",
            how(*end),
            bytes(*bytes_to_agent),
            bytes(*bytes_to_client),
            duration(*time)
        ),
        What::RequestEnded(request) => requests::line(request, has_colours),
        What::RequestsMissed { missed } => {
            format!("{} left out, because they were not read in time", count(*missed, "request"))
        }
        What::Closed { reason } => format!("closed: {}", why(*reason)),
        What::Lagged { missed } => {
            format!(
                "{} missed, because they were not read in time; what is open is told again",
                count(*missed, "event")
            )
        }
        _ => "something happened that this version has no words for".to_owned(),
    }
}

fn whole(info: &TunnelInfo) -> String {
    let name = info.name.as_ref().map(|name| format!("{name} at ")).unwrap_or_default();
    let address = info.addresses.first().map(ToString::to_string).unwrap_or_default();
    format!("{name}{address} on {}", printable(&info.backend))
}

fn state(info: &TunnelInfo) -> String {
    match info.state {
        TunnelState::Waiting => "no agent yet".to_owned(),
        TunnelState::Online => format!("online with {}", count(info.streams.into(), "client")),
        TunnelState::Offline => "its agent is gone".to_owned(),
    }
}

fn how(end: StreamEnd) -> &'static str {
    match end {
        StreamEnd::Finished => "finished",
        StreamEnd::AbortedByClient => "broke off",
        StreamEnd::AbortedByAgent => "was cut off by the agent",
        StreamEnd::Stalled => "stalled and was cut off",
        StreamEnd::TunnelClosed => "was cut off as the tunnel closed",
    }
}

fn why(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Requested => "on request",
        CloseReason::NotDialled => "no agent came",
        CloseReason::Done => "its one connection is over",
        CloseReason::AgentLost => "its agent did not come back",
        CloseReason::Shutdown => "the server stops",
        CloseReason::Revoked => "its credential was revoked",
    }
}
