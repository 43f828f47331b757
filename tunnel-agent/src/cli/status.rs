//! How a tunnel stands, while it does: one line that is drawn anew in a terminal, lines of log elsewhere.

use std::{
    collections::VecDeque,
    convert::Infallible,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{Instant as Deadline, MissedTickBehavior, interval, sleep_until},
};
use tunnel_agent::{AgentState, ForwardCounts};

use super::{
    screen::Screen,
    units::{bytes, count},
};

/// What there are so and so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Clients,
    /// Each of which is told on its own, so that they need no report.
    Requests,
}

/// Tells until it is dropped.
pub(crate) async fn tell(
    screen: &Screen,
    mut state: watch::Receiver<AgentState>,
    counted: Counted,
    read: impl Fn() -> ForwardCounts,
) -> Infallible {
    let mut stage = Stage::Dialling;
    let mut lost = None;
    let mut recent = Recent::default();
    let mut logged = ForwardCounts::default();
    let mut ticks = interval(if screen.is_live() { REDRAW } else { REPORT });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = stage.after(*state.borrow_and_update());
        // What was not said to be lost is not said to be back.
        let was_brief = next == Stage::Online && lost.take().is_some();
        match (stage, next) {
            (Stage::Online, Stage::Reconnecting) => lost = Some(Deadline::now() + MOMENT),
            (Stage::Dialling, Stage::Online) => log_online(screen.is_live()),
            (Stage::Reconnecting, Stage::Online) if !was_brief => tracing::info!("online again"),
            _ => {}
        }
        stage = next;
        let counts = read();
        if screen.is_live() {
            let line = line(stage, counted, &counts, recent.rates(Instant::now(), &counts));
            screen.show(&painted(fitted(&line, screen.width()), stage, screen.has_colours()));
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                // Whoever forwards has seen the end as well.
                std::future::pending::<()>().await;
            },
            () = sleep_until(lost.unwrap_or_else(Deadline::now)), if lost.is_some() => {
                tracing::warn!("the connection to the tunnel server is lost; reconnecting until it is back");
                lost = None;
            },
            _ = ticks.tick() => if !screen.is_live() && counted == Counted::Clients && counts != logged {
                let (into, out) = (bytes(counts.bytes_to_service), bytes(counts.bytes_to_clients));
                tracing::info!(now = counts.clients_now, total = counts.clients, %into, %out, "clients");
                logged = counts;
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Online,
    Reconnecting,
}

impl Stage {
    fn after(self, state: AgentState) -> Self {
        match (state, self) {
            (AgentState::Online, _) => Self::Online,
            // Whoever forwards says so.
            (AgentState::Closed | AgentState::Refused, stage) => stage,
            (_, Self::Dialling) => Self::Dialling,
            _ => Self::Reconnecting,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dialling => "dialling",
            Self::Online => "online",
            Self::Reconnecting => "reconnecting",
        }
    }
}

/// In a terminal the status line says that all is well; what was not must stay to be read later.
fn log_online(is_live: bool) {
    if is_live {
        tracing::debug!("online");
    } else {
        tracing::info!("online");
    }
}

/// Bytes a second, to the service and to the clients.
type Rates = (u64, u64);

/// What was counted within the last [`WINDOW`].
#[derive(Debug, Default)]
struct Recent(VecDeque<(Instant, u64, u64)>);

impl Recent {
    fn rates(&mut self, now: Instant, counts: &ForwardCounts) -> Rates {
        self.0.push_back((now, counts.bytes_to_service, counts.bytes_to_clients));
        while self.0.get(1).is_some_and(|(at, ..)| now - *at >= WINDOW) {
            self.0.pop_front();
        }
        let Some((since, to_service, to_clients)) = self.0.front() else { return (0, 0) };
        let seconds = (now - *since).as_secs_f64().max(REDRAW.as_secs_f64());
        let rate = |bytes: u64| (bytes as f64 / seconds) as u64;
        (rate(counts.bytes_to_service - to_service), rate(counts.bytes_to_clients - to_clients))
    }
}

fn line(stage: Stage, counted: Counted, counts: &ForwardCounts, rates: Rates) -> String {
    let mut clients = match counted {
        Counted::Clients => format!("{}, {} in all", count(counts.clients_now, "client"), counts.clients),
        Counted::Requests => count(counts.clients, "request"),
    };
    if counts.turned_away > 0 {
        clients.push_str(&format!(", {} turned away", counts.turned_away));
    }
    let (into, out) = (bytes(counts.bytes_to_service), bytes(counts.bytes_to_clients));
    format!("{} | {clients} | in {into} ({}/s) | out {out} ({}/s)", stage.name(), bytes(rates.0), bytes(rates.1))
}

/// A full line would make some terminals begin another one. The line is ASCII.
fn fitted(line: &str, width: usize) -> &str {
    line.get(..width.saturating_sub(1)).unwrap_or(line)
}

fn painted(line: &str, stage: Stage, has_colours: bool) -> String {
    let colour = if stage == Stage::Online { GREEN } else { YELLOW };
    match line.strip_prefix(stage.name()) {
        Some(rest) if has_colours => format!("{colour}{}{PLAIN}{rest}", stage.name()),
        _ => line.to_owned(),
    }
}

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

const REDRAW: Duration = Duration::from_millis(250);

/// A loss that is over sooner is not worth a word, nor is one that was the tunnel's end: when somebody closes it, its
/// connections may be gone before the news is here.
const MOMENT: Duration = Duration::from_secs(1);

/// Between two reports in a log, where there is something to report.
const REPORT: Duration = Duration::from_secs(60);

/// Long enough that a rate can be read, short enough that it is of now.
const WINDOW: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(to_service: u64, to_clients: u64) -> ForwardCounts {
        let mut counts = ForwardCounts::default();
        (counts.bytes_to_service, counts.bytes_to_clients) = (to_service, to_clients);
        counts
    }

    #[test]
    fn the_line_says_how_it_stands_who_is_there_and_what_moves() {
        let mut counts = counts(1_200_000, 34_000);
        (counts.clients, counts.clients_now) = (14, 1);
        let whole = "online | 1 client, 14 in all | in 1.2 MB (3.4 kB/s) | out 34 kB (0 B/s)";
        assert_eq!(line(Stage::Online, Counted::Clients, &counts, (3400, 0)), whole);
        counts.turned_away = 2;
        assert!(line(Stage::Online, Counted::Clients, &counts, (0, 0)).contains("14 in all, 2 turned away"));
        counts.turned_away = 0;
        assert!(
            line(Stage::Online, Counted::Requests, &counts, (0, 0)).starts_with("online | 14 requests | in 1.2 MB")
        );
    }

    #[test]
    fn it_never_fills_the_terminal() {
        assert_eq!(fitted("online | 1 client", 10), "online | ");
        assert_eq!(fitted("online", 80), "online");
        assert_eq!(fitted("online", 0), "");
    }

    #[test]
    fn there_are_colours_only_where_they_are_wanted() {
        assert_eq!(painted("online | x", Stage::Online, true), "\x1b[32monline\x1b[0m | x");
        assert_eq!(painted("online | x", Stage::Online, false), "online | x");
        assert_eq!(painted("onl", Stage::Online, true), "onl");
    }

    #[test]
    fn a_tunnel_that_was_never_online_is_not_reconnecting() {
        assert_eq!(Stage::Dialling.after(AgentState::Dialling), Stage::Dialling);
        assert_eq!(Stage::Dialling.after(AgentState::Online), Stage::Online);
        assert_eq!(Stage::Online.after(AgentState::Dialling), Stage::Reconnecting);
        assert_eq!(Stage::Reconnecting.after(AgentState::Dialling), Stage::Reconnecting);
        assert_eq!(Stage::Online.after(AgentState::Closed), Stage::Online);
    }

    #[test]
    fn rates_are_of_the_last_two_seconds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::default();
        assert_eq!(recent.rates(at(0), &counts(0, 0)), (0, 0));
        assert_eq!(recent.rates(at(1), &counts(1000, 50)), (1000, 50));
        assert_eq!(recent.rates(at(2), &counts(1000, 100)), (500, 50));
        assert_eq!(recent.rates(at(4), &counts(1000, 100)), (0, 0));
    }
}
