use std::{
    convert::Infallible,
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use futures_util::FutureExt;
use tunnel_agent::{ForwardCounts, Proxy, RequestNews, Requests, ServedTunnel, Tunnel};
use tunnel_backends::process::StopSignals;

use super::{
    args::Http,
    failure::Failure,
    opening::closed,
    requests,
    screen::Screen,
    server::Server,
    status::{self, Counted},
    units::{count, seconds},
};

/// `tunnel http`.
pub(crate) async fn run(args: &Http, server: &Server, screen: &Screen) -> Result<(), Failure> {
    // Before anybody can know that we run.
    let mut signals = StopSignals::catch()?;
    let served = tokio::select! {
        opened = open(args, server) => opened?,
        () = signals.next() => return Ok(()),
    };
    // From the first one on, where anybody sees them: the server tells each to whoever asks.
    let requests = screen.has_notes().then(|| served.requests());
    if let Err(failure) = args.opening.announce(served.id(), served.address(), &args.target) {
        served.leave().await;
        return Err(failure);
    }
    args.opening.tell_target(served.address(), &args.target, screen);
    args.opening.tell_way_out(screen);

    let since = Instant::now();
    let counts = Counts::default();
    let end = tokio::select! {
        () = served.closed() => Err(closed(*served.state().borrow())),
        never = show(requests, &counts, screen) => match never {},
        never = status::tell(screen, served.state(), Counted::Requests, || counts.get()) => match never {},
        () = signals.next() => Ok(()),
    };
    screen.show("");

    // As in `tcp.rs`.
    tokio::select! {
        () = served.leave() => {}
        () = signals.next() => {}
    }
    if end.is_ok() {
        let counts = counts.get();
        args.opening.part(&count(counts.clients, "request"), &counts, since, screen);
    }
    end
}

async fn open(args: &Http, server: &Server) -> Result<ServedTunnel, Failure> {
    let mut tunnel = args.opening.of(Tunnel::http());
    if let Some(host) = &args.host {
        tunnel = tunnel.host(host);
    }
    let proxy = Proxy::to(args.target.clone()).host_header(args.host_header.clone());
    let proxy = if args.h2c { proxy.h2c() } else { proxy };
    Ok(server.agent().await?.serve(tunnel, proxy).await?)
}

/// What there was so far.
#[derive(Default)]
struct Counts(Mutex<ForwardCounts>);

impl Counts {
    fn get(&self) -> ForwardCounts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, counts: ForwardCounts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

/// Each request when it has ended, for as long as there are any.
async fn show(requests: Option<Requests>, counts: &Counts, screen: &Screen) -> Infallible {
    let Some(mut requests) = requests else { return std::future::pending().await };
    let mut so_far = counts.get();
    while let Some(first) = requests.next().await {
        let (now, mut lines, mut text) = (seconds(SystemTime::now()), 0, String::new());
        let mut next = Some(first);
        while let Some(news) = next {
            // A `String` takes all.
            let _ = match news {
                RequestNews::Ended(request) => {
                    so_far.clients += 1;
                    so_far.bytes_to_service += request.bytes_to_agent;
                    so_far.bytes_to_clients += request.bytes_to_client;
                    writeln!(text, "{now}  {}", requests::line_of_one_host(&request, screen.has_colours()))
                }
                RequestNews::Missed(missed) => {
                    so_far.clients += missed;
                    writeln!(text, "{now}  \u{2026} {} not shown", count(missed, "request"))
                }
                _ => Ok(()),
            };
            // What has come with it is written with it.
            lines += 1;
            next = if lines < AT_ONCE { requests.next().now_or_never().flatten() } else { None };
        }
        counts.set(so_far);
        screen.note(text.trim_end());
    }
    std::future::pending().await
}

/// Lines in one write.
const AT_ONCE: usize = 100;
