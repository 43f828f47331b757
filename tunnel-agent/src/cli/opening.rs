//! What the commands that make a service public have in common: the tunnel that was asked for, and what is said about it.

use std::{io::IsTerminal, time::Instant};

use tunnel_agent::{AgentState, ForwardCounts, PublicAddress, Target, Tunnel, TunnelId};

use super::{
    args::{Opening, Output},
    failure::Failure,
    json,
    screen::Screen,
    stdout::{self, Reader},
    units::{bytes, duration},
};

impl Opening {
    /// The tunnel, as far as it is the same whatever its clients speak.
    pub(crate) fn of(&self, tunnel: Tunnel) -> Tunnel {
        let mut tunnel = tunnel.sessions(self.sessions.into());
        tunnel = tunnel.allow_clients(self.allow.iter().copied()).deny_clients(self.deny.iter().copied());
        if let Some(backend) = &self.backend {
            tunnel = tunnel.backend(backend);
        }
        if let Some(name) = &self.name {
            tunnel = tunnel.name(name.as_str());
        }
        for (key, value) in &self.labels {
            tunnel = tunnel.label(key, value);
        }
        tunnel
    }

    /// The one line on stdout. Without it nobody would know the address, so it must get through.
    pub(crate) fn announce(&self, id: &TunnelId, address: &PublicAddress, target: &Target) -> Result<(), Failure> {
        let line = match self.output {
            Output::Text if Screen::stdout_has_colours() => format!("{BOLD}{address}{PLAIN}\n"),
            Output::Text => format!("{address}\n"),
            Output::Json => json::line(&json::Opened {
                id: id.to_string(),
                address: address.to_string(),
                name: self.name.as_ref().map(ToString::to_string),
                target: target.to_string(),
            })?,
        };
        match stdout::print(&line)? {
            Reader::Listens => Ok(()),
            Reader::HasGone => {
                Err(Failure::new("nobody reads stdout, where the public address goes; the tunnel is given up"))
            }
        }
    }

    /// Where it goes.
    pub(crate) fn tell_target(&self, address: &PublicAddress, target: &Target, screen: &Screen) {
        if self.output == Output::Text && std::io::stdout().is_terminal() {
            // Who reads this has just read the address.
            screen.note(&format!("forwards to {target}"));
        } else {
            screen.note(&format!("{address} -> {target}"));
        }
    }

    /// How it ends.
    pub(crate) fn tell_way_out(&self, screen: &Screen) {
        screen.note(&match &self.name {
            Some(name) => format!("Ctrl-C stops; the address stays yours for a day, `tunnel close {name}` gives it up"),
            None => "Ctrl-C stops and closes the tunnel".to_owned(),
        });
    }

    /// What there was.
    pub(crate) fn part(&self, whom: &str, counts: &ForwardCounts, since: Instant, screen: &Screen) {
        let (into, out) = (bytes(counts.bytes_to_service), bytes(counts.bytes_to_clients));
        let time = duration(since.elapsed());
        screen.note(&format!("stopped after {time}: {whom}, {into} in, {out} out"));
        if let Some(name) = &self.name {
            screen.note(&format!("the address stays yours for a day; `tunnel close {name}` gives it up"));
        }
    }
}

/// Not by us.
pub(crate) fn closed(state: AgentState) -> Failure {
    match state {
        AgentState::Refused => Failure::refused("the tunnel server refuses the credentials; the tunnel is closed"),
        _ => Failure::new("the tunnel was closed by somebody else"),
    }
}

const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";
