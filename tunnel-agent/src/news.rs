//! What the server tells of our tunnel, as far as it matters: whether it was closed, and why. What it tells of requests is passed on.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use tunnel_api::{CloseReason, TunnelEvents, TunnelInfo, What};

use crate::requests::Feed;

/// Why the tunnel was closed between its opening and our watching it, if it was: then it is no part of the present state.
pub(crate) async fn was_closed(events: &mut Option<TunnelEvents>) -> Option<CloseReason> {
    let news = events.as_mut()?;
    let told = async {
        let mut present = false;
        while let Some(Ok(event)) = news.next().await {
            match event.what {
                What::Present(_) => present = true,
                What::Closed { reason } => return Some(reason),
                What::Ready => return (!present).then_some(CloseReason::Requested),
                _ => {}
            }
        }
        None
    };
    timeout(PRESENT, told).await.unwrap_or_default()
}

/// How the tunnel stands, as the news begin with it; `None` if they do not.
pub(crate) async fn standing(news: &mut TunnelEvents) -> Option<Box<TunnelInfo>> {
    let told = async {
        while let Some(Ok(event)) = news.next().await {
            match event.what {
                What::Present(info) => return Some(info),
                What::Ready => break,
                _ => {}
            }
        }
        None
    };
    timeout(PRESENT, told).await.unwrap_or_default()
}

/// Why the tunnel was closed; `None` when there will be no news. Then it is not asked again: it would never resolve.
pub(crate) async fn closed(events: &mut Option<TunnelEvents>, feed: &Feed) -> Option<CloseReason> {
    let Some(news) = events else { return std::future::pending().await };
    loop {
        match news.next().await {
            Some(Ok(event)) => match event.what {
                What::Closed { reason } => return Some(reason),
                what => feed.tell(what),
            },
            Some(Err(_)) | None => {
                *events = None;
                return None;
            }
        }
    }
}

/// For the present state, which comes at once or not at all.
const PRESENT: Duration = Duration::from_secs(5);
