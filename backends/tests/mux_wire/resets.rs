//! Clients that reset their connections, or are refused, faster than agents bear it.

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::Instant};
use tunnel_api::OpenedTunnel;
use tunnel_backends::{
    sockets,
    testing::{client::hear_exactly, connect, keep, say},
};

use crate::{
    frames::{Frame, Frames, HEADERS, RST_STREAM},
    knock::Knock,
    mux::{Mux, open, until_sessions},
};

/// Node's HTTP/2 gives up its connection after 1,000 in a row and then 33 a second.
#[test]
fn clients_that_reset_do_not_reset_an_agents_streams_faster_than_it_bears() {
    keep(&Mux::default(), async |rig| {
        let (stage, tunnel) = open(rig).await;
        let mut crowd = Crowd::begin(Frames::dial(&tunnel).await, &tunnel).await;
        until_sessions(&stage, &tunnel, 1).await;
        let since = Instant::now();
        crowd.come_and_reset().await;
        crowd.good_one_goes_on().await;
        let most = 500 + 25 * (since.elapsed().as_secs() + 1);
        assert!((400..=most).contains(&crowd.resets), "{} resets in {:?}", crowd.resets, since.elapsed());
        crowd.another_is_served(&tunnel).await;
    });
}
