use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::{
    Caller, OpenTunnel, OpenedTunnel, Page, PublicAddress, TunnelBackend, TunnelError, TunnelEvents, TunnelInfo,
    TunnelRef, TunnelUri, WatchFilter, What,
};

/// A backend that picks among named backends: new tunnels go to the one the request names, or to the default; the other
/// calls go to whichever has the tunnel.
#[derive(Clone)]
pub struct Router {
    backends: Arc<BTreeMap<String, Arc<dyn TunnelBackend>>>,
    default: Arc<dyn TunnelBackend>,
}

/// The default backend is not among the backends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the default backend {default} is not among the backends: {known}")]
pub struct NoDefault {
    default: String,
    known: String,
}

impl Router {
    /// Routes among `backends`, to `default` where the request names none.
    pub fn new(backends: BTreeMap<String, Arc<dyn TunnelBackend>>, default: &str) -> Result<Self, NoDefault> {
        let Some(chosen) = backends.get(default).cloned() else {
            let known = names(&backends);
            return Err(NoDefault { default: default.to_owned(), known });
        };
        Ok(Self { backends: Arc::new(backends), default: chosen })
    }

    fn pick(&self, name: Option<&str>) -> Result<&Arc<dyn TunnelBackend>, TunnelError> {
        let Some(name) = name else { return Ok(&self.default) };
        self.backends.get(name).ok_or_else(|| {
            let why = format!("there is no backend {name:?} here; there are: {}", names(&self.backends));
            TunnelError::invalid("backend", why)
        })
    }
}

#[async_trait]
impl TunnelBackend for Router {
    async fn open_tunnel(&self, caller: &Caller, mut request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        let backend = self.pick(request.backend.take().as_deref())?;
        backend.open_tunnel(caller, request).await
    }

    async fn get_tunnel_address(&self, caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        for backend in self.backends.values() {
            match backend.get_tunnel_address(caller, uri).await {
                Err(TunnelError::NotFound) => {}
                answer => return answer,
            }
        }
        Err(TunnelError::NotFound)
    }

    async fn close_tunnel(&self, caller: &Caller, tunnel: &TunnelRef) -> Result<(), TunnelError> {
        for backend in self.backends.values() {
            match backend.close_tunnel(caller, tunnel).await {
                Err(TunnelError::NotFound | TunnelError::Unsupported { .. }) => {}
                answer => return answer,
            }
        }
        Err(TunnelError::NotFound)
    }

    async fn list_tunnels(&self, caller: &Caller, page: &Page) -> Result<Vec<TunnelInfo>, TunnelError> {
        let mut all = Vec::new();
        for backend in self.backends.values() {
            match backend.list_tunnels(caller, page).await {
                Ok(some) => all.extend(some),
                Err(TunnelError::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.truncate(page.limit);
        Ok(all)
    }

    async fn watch_tunnels(&self, caller: &Caller, filter: &WatchFilter) -> Result<TunnelEvents, TunnelError> {
        let watch = Watch { router: self.clone(), caller: caller.clone(), filter: filter.clone() };
        let merged = watch.start().await?;
        Ok(stream::unfold(Some((watch, merged)), Watch::next).boxed())
    }
}

/// One watch over all backends. Each backend tells its present state and then that it is ready; the reader is told once,
/// when the last one is. A backend that lags makes the reader start over, so all are asked anew.
struct Watch {
    router: Router,
    caller: Caller,
    filter: WatchFilter,
}

struct Merged {
    events: stream::SelectAll<TunnelEvents>,
    not_ready: usize,
}

impl Watch {
    async fn start(&self) -> Result<Merged, TunnelError> {
        let mut events = stream::SelectAll::new();
        for backend in self.router.backends.values() {
            match backend.watch_tunnels(&self.caller, &self.filter).await {
                Ok(some) => events.push(some),
                Err(TunnelError::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if events.is_empty() {
            return Err(TunnelError::Unsupported { call: "WatchTunnels" });
        }
        Ok(Merged { not_ready: events.len(), events })
    }

    /// One step of the stream. `None` as state: an error was the last item.
    async fn next(
        state: Option<(Self, Merged)>,
    ) -> Option<(Result<crate::TunnelEvent, TunnelError>, Option<(Self, Merged)>)> {
        let (watch, mut merged) = state?;
        loop {
            let event = match merged.events.next().await? {
                Ok(event) => event,
                Err(error) => return Some((Err(error), None)),
            };
            match event.what {
                What::Ready if merged.not_ready > 1 => merged.not_ready -= 1,
                What::Lagged { .. } => match watch.start().await {
                    Ok(anew) => return Some((Ok(event), Some((watch, anew)))),
                    Err(error) => return Some((Err(error), None)),
                },
                _ => return Some((Ok(event), Some((watch, merged)))),
            }
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("backends", &names(&self.backends)).finish_non_exhaustive()
    }
}

fn names(backends: &BTreeMap<String, Arc<dyn TunnelBackend>>) -> String {
    backends.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
