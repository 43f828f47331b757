use std::time::SystemTime;

use tunnel_api::{Caller, Page, TunnelBackend, TunnelInfo, TunnelState};

use super::{
    args::{List, Output},
    failure::Failure,
    json,
    screen::Screen,
    server::Server,
    stdout,
    table::{Side, aligned},
    units,
};

/// `tunnel list`.
pub(crate) async fn run(args: &List, server: &Server, screen: &Screen) -> Result<(), Failure> {
    let tunnels = all(&server.connect().await?).await?;
    if tunnels.is_empty() {
        screen.note("no tunnels are open; `tunnel http PORT` opens one");
    }
    let text = match args.output {
        Output::Text => table(&tunnels, SystemTime::now()),
        Output::Json => tunnels.iter().map(|info| json::line(&json::Tunnel::from(info))).collect::<Result<_, _>>()?,
    };
    // Who reads only the first lines has seen enough.
    stdout::print(&text).map(drop)
}

async fn all(backend: &impl TunnelBackend) -> Result<Vec<TunnelInfo>, Failure> {
    let mut tunnels: Vec<TunnelInfo> = Vec::new();
    loop {
        let page = Page { after: tunnels.last().map(|info| info.id.clone()), limit: Page::MAX };
        let more = backend.list_tunnels(&Caller::embedded(), &page).await?;
        let is_last = more.len() < page.limit;
        tunnels.extend(more);
        if is_last {
            return Ok(tunnels);
        }
    }
}

fn table(tunnels: &[TunnelInfo], now: SystemTime) -> String {
    if tunnels.is_empty() {
        return String::new();
    }
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(tunnels.iter().map(|info| row(info, now)));
    aligned(&rows, SIDES)
}

fn row(info: &TunnelInfo, now: SystemTime) -> [String; 10] {
    [
        info.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        info.id.to_string(),
        info.addresses.first().map_or_else(|| "-".to_owned(), ToString::to_string),
        units::printable(&info.backend),
        state(info, now),
        info.sessions.to_string(),
        info.streams.to_string(),
        units::bytes(info.bytes_to_agent),
        units::bytes(info.bytes_to_client),
        units::duration(now.duration_since(info.open_time).unwrap_or_default()),
    ]
}

fn state(info: &TunnelInfo, now: SystemTime) -> String {
    let name = match info.state {
        TunnelState::Online => return "online".to_owned(),
        TunnelState::Waiting => "waiting",
        TunnelState::Offline => "offline",
    };
    match info.expire_time {
        Some(time) => format!("{name}, closes in {}", units::duration(time.duration_since(now).unwrap_or_default())),
        None => name.to_owned(),
    }
}

const HEADS: [&str; 10] = ["NAME", "ID", "ADDRESS", "BACKEND", "STATE", "SESSIONS", "CLIENTS", "IN", "OUT", "AGE"];

const SIDES: [Side; 10] = [
    Side::Left,
    Side::Left,
    Side::Left,
    Side::Left,
    Side::Left,
    Side::Right,
    Side::Right,
    Side::Right,
    Side::Right,
    Side::Right,
];
