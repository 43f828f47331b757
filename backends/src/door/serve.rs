use std::{net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Duration, sleep, timeout};
use tunnel_api::ConnectionAddrs;

use super::{
    Arrival,
    accept::Hall,
    encryption::Plain,
    first::{FirstUnit, LONGEST_HEAD, Protocol},
    introduce::Introduce,
    lent::Lent,
    lobby::{Outstayed, Seat},
    meet::Guest,
    pace::{Pace, Paced},
    stay::{Held, Stay},
};
use crate::{
    meters::{DoorRefused, IdleClosed},
    replay::Replay,
    seldom::Seldom,
};

impl Hall {
    /// Answers the requests of a connection until it ends, and ends it.
    pub(super) async fn serve(&self, guest: Guest, peer: SocketAddr, local: SocketAddr, arrival: Arrival, seat: Seat) {
        // `printf 'GET …' | nc` has finished when it has asked, and still wants its answer. Not so a gRPC-Web caller, whose watch
        // would otherwise go on until something happens that it could be told.
        let half_closes = !guest.first.is_grpc_web();
        let Guest { first: FirstUnit { protocol, bytes }, link, plain, certificate, server_name } = guest;
        let encrypted = matches!(plain, None | Some(Plain::Encrypted));
        if plain == Some(Plain::Refused) {
            self.terms.meters.door_refused(DoorRefused::Plain);
            tracing::debug!(peer.addr = %peer, "plain connection refused: it is not from tls_terminated_by");
        }
        let stay = Stay::new(seat.newcomer().clone(), peer.ip(), self.lounge.clone(), self.terms.meters.clone());
        let pace = Pace::new(seat.newcomer().clone());
        let service = Introduce::new(
            self.http.clone(),
            ConnectionAddrs { peer, local, encrypted },
            arrival,
            self.terms.trusted_proxies.clone(),
            stay.clone(),
            seat.newcomer().clone(),
        )
        .with(certificate, server_name)
        .refusing_all_if(plain == Some(Plain::Refused), self.terms.names.clone());
        let (io, back) = Lent::new(Replay::new(bytes.freeze(), link));
        let ended = match protocol {
            Protocol::Http1 => {
                let io = io.with_limits(stay.clone(), self.terms.first_unit, self.terms.unread);
                self.serve_http1(io, half_closes, service.pacing_requests(pace), &stay, &seat).await
            }
            Protocol::Http2 => self.serve_http2(Paced::new(io, pace), service, &stay, &seat).await,
        };
        // hyper has dropped it, or somebody else has it.
        let Some(returned) = back.take() else { return };
        match (&ended, protocol) {
            (Ended::HungUp, Protocol::Http2) => returned.close(),
            (Ended::HungUp, Protocol::Http1) if !seat.newcomer().is_accepted() => returned.close_if_shut(),
            _ => tokio::select! {
                () = returned.end(matches!(ended, Ended::ByItself(Ok(())) | Ended::WhenTold(Ok(())))) => {}
                () = seat.evicted() => {}
                () = ended.enough() => {}
            },
        }
        if let Ended::ByItself(Err(error)) | Ended::WhenTold(Err(error)) = ended {
            tracing::debug!(peer.addr = %peer, %error, "connection ended");
        }
    }

    async fn serve_http1(
        &self,
        io: Lent,
        half_closes: bool,
        service: Introduce,
        stay: &Arc<Stay>,
        seat: &Seat,
    ) -> Ended {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // It is ours, and ends a connection in order.
            .header_read_timeout(None)
            .half_close(half_closes)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let left = std::pin::pin!(self.has_to_leave(stay, seat, self.terms.keep_alive, Held::All));
        let left = tokio::select! {
            ended = connection.as_mut() => return Ended::ByItself(ended),
            left = Seldom::new(left) => left,
        };
        connection.as_mut().graceful_shutdown();
        self.leave(connection, left, stay, seat).await
    }

    async fn serve_http2(&self, io: Paced, service: Introduce, stay: &Arc<Stay>, seat: &Seat) -> Ended {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // tonic leaves hyper's defaults behind when it takes its own; these are ours.
            .max_concurrent_streams(100)
            .max_header_list_size(LONGEST_HEAD as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(64 * 1024)
            // Requests that are reset before we have looked at them: more than a client that gives up calls has at once.
            .max_pending_accept_reset_streams(100)
            // Requests that break the rules, over a connection's whole life.
            .max_local_error_reset_streams(1024)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let left = std::pin::pin!(self.has_to_leave(stay, seat, self.terms.keep_alive_http2, Held::Clients));
        let left = tokio::select! {
            ended = connection.as_mut() => return Ended::ByItself(ended),
            left = Seldom::new(left) => left,
        };
        connection.as_mut().graceful_shutdown();
        self.leave(connection, left, stay, seat).await
    }

    async fn has_to_leave(&self, stay: &Stay, seat: &Seat, keep_alive: Duration, held: Held) -> Left {
        tokio::select! {
            () = self.stop.cancelled() => Left::Stopped,
            why = seat.outstayed(self.terms.idle) => Left::Outstayed(why),
            why = stay.outstayed(keep_alive, held) => Left::Idle(why),
        }
    }

    /// Drives a connection that has been told to end.
    async fn leave(
        &self,
        mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
        left: Left,
        stay: &Stay,
        seat: &Seat,
    ) -> Ended {
        match left {
            Left::Stopped => Ended::WhenTold(connection.await),
            // Its place is wanted now: it is told if it listens, and that is all.
            Left::Outstayed(Outstayed::Evicted) => {
                self.terms.meters.door_refused(DoorRefused::Evicted);
                connection.now_or_never().map_or(Ended::HungUp, Ended::WhenTold)
            }
            // It waits for the peer to acknowledge, and nobody says that this one ever will.
            Left::Outstayed(Outstayed::Idle) => match timeout(GOODBYE, connection.as_mut()).await {
                // A request crossed our goodbye: it is answered.
                Err(_) if seat.newcomer().is_accepted() => Ended::WhenTold(connection.await),
                ended => {
                    self.terms.meters.door_refused(DoorRefused::Timeout);
                    ended.map_or(Ended::HungUp, Ended::WhenTold)
                }
            },
            // Requests that crossed our goodbye are answered.
            Left::Idle(why) => {
                self.terms.meters.idle_closed(why);
                tokio::select! {
                    ended = connection => Ended::WhenTold(ended),
                    () = stay.idle_from_now_on(GOODBYE) => Ended::HungUp,
                }
            }
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
enum Ended {
    ByItself(hyper::Result<()>),
    /// We told it to, and its place is wanted, or the door is closing.
    WhenTold(hyper::Result<()>),
    /// We did not wait for that.
    HungUp,
}

impl Ended {
    /// Resolves when it has been heard out for long enough.
    async fn enough(&self) {
        match self {
            // As long as that takes.
            Self::ByItself(_) => std::future::pending().await,
            Self::WhenTold(_) | Self::HungUp => sleep(BRIEFLY).await,
        }
    }
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The door closes.
    Stopped,
    /// Nobody has accepted it.
    Outstayed(Outstayed),
    /// It made no more requests.
    Idle(IdleClosed),
}

/// For a peer that makes no request to take in that it may go.
const GOODBYE: Duration = Duration::from_secs(2);

/// For a peer that has no more requests to take in that nothing more comes, and to close: some do so only when they need it again.
const BRIEFLY: Duration = Duration::from_millis(500);

/// An HTTP/2 peer of which nothing is heard for so long is asked whether it is there.
const PING: Duration = Duration::from_secs(15);

/// For its answer. It reads our question after all that is on its way to it, which may be 10 MB: where it takes 100 KB/s and no more, a
/// paused or throttled download, that is a minute and a half.
const PONG: Duration = Duration::from_secs(5 * 60);

/// An upload: 20 MB/s on a path of 50 ms. A call of the RPC is smaller than it.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// What one connection can have us hold of its uploads that nobody takes. More than one of them, so that one does not stop all.
/// (Growing windows by measurement, hyper makes both equal and as large as 16 MiB.)
const CONNECTION_WINDOW: u32 = 2 * STREAM_WINDOW;
