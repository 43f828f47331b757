//! A request at an agent, as those who say it and those who hear its answer share it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::{AtomicWaker, noop_waker_ref};
use tokio::runtime::Handle;
use tracing::Instrument;
use tunnel_api::StreamEnd;

use super::super::{Account, Uplink};
use crate::{
    exchange::{BoxExchange, Exchange},
    relay::Progress,
    sessions::Place,
};

/// A request that was sent. It is aborted when one of those who share it says so, or when all have gone before it was whole.
pub(super) struct Asked {
    pub(super) uplink: Uplink,
    pub(super) progress: Arc<Progress>,
    state: Mutex<State>,
    /// Who says it: woken when the other one aborts. (Who hears the answer is known to `progress`.)
    saying: AtomicWaker,
}

struct State {
    /// Where it is now, if it is anywhere.
    at: Option<(BoxExchange, Place)>,
    account: Option<Account>,
    aborted: Option<StreamEnd>,
}

impl Asked {
    pub(super) fn new(account: Account, exchange: BoxExchange, place: Place) -> Self {
        Self {
            uplink: account.uplink.clone(),
            progress: account.progress.clone(),
            state: Mutex::new(State { at: Some((exchange, place)), account: Some(account), aborted: None }),
            saying: AtomicWaker::new(),
        }
    }

    /// Does something with it, unless it has been aborted.
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut dyn Exchange) -> T) -> Result<T, StreamEnd> {
        let mut state = self.lock();
        match &mut *state {
            State { at: Some((exchange, _)), aborted: None, .. } => Ok(what(&mut **exchange)),
            State { aborted, .. } => Err(aborted.unwrap_or(StreamEnd::AbortedByAgent)),
        }
    }

    /// The same for who says it, and wants to hear when the other one aborts.
    pub(super) fn say<T>(
        &self,
        cx: &mut Context<'_>,
        what: impl FnOnce(&mut dyn Exchange, &mut Context<'_>) -> T,
    ) -> Result<T, StreamEnd> {
        self.saying.register(cx.waker());
        self.with(|exchange| what(exchange, cx))
    }

    /// Whether the tunnel is over: for who hears the answer, and wants to hear of that, and when the other one aborts.
    pub(super) fn is_over(&self, cx: &Context<'_>) -> bool {
        self.progress.wake_when_over(cx);
        self.uplink.0.ended.is_passed()
    }

    /// Whether the answer is known to be whole, and all of it was taken.
    pub(super) fn is_answered(&self) -> bool {
        self.with(|exchange| exchange.is_answered()).unwrap_or(false)
    }

    /// Leaves an agent that has left it untouched; gives its session's key.
    pub(super) fn leave(&self) -> Option<u64> {
        let (exchange, place) = self.lock().at.take()?;
        let key = place.session_key();
        let_go(&self.uplink, (exchange, place), |(exchange, _), cx| exchange.poll_gone(cx));
        Some(key)
    }

    pub(super) fn go_to(&self, exchange: BoxExchange, place: Place) {
        self.lock().at = Some((exchange, place));
    }

    /// Takes all of it away from here.
    pub(super) fn take(&self) -> Option<(BoxExchange, Place, Account)> {
        let mut state = self.lock();
        let account = state.account.take()?;
        let (exchange, place) = state.at.take()?;
        Some((exchange, place, account))
    }

    /// Aborts it for everybody. The first to say so is who did it. What the agent did while the tunnel was being closed was not its
    /// doing.
    pub(super) fn abort(&self, by: StreamEnd) -> StreamEnd {
        let by = if self.uplink.0.ended.is_passed() { StreamEnd::TunnelClosed } else { by };
        let by = *self.lock().aborted.get_or_insert(by);
        self.end(by);
        self.saying.wake();
        self.progress.wake();
        by
    }

    /// It may take its time to go: until its reset has had its turn it keeps its place.
    fn end(&self, how: StreamEnd) {
        let (at, account) = {
            let mut state = self.lock();
            (state.at.take(), state.account.take())
        };
        if let Some(account) = account {
            self.uplink.meters().stream_ended(how);
            let_go(&self.uplink, (at, account), |(at, _), cx| {
                at.as_mut().map_or(Poll::Ready(()), |(exchange, _)| exchange.poll_gone(cx))
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let how = if self.is_answered() { StreamEnd::Finished } else { StreamEnd::AbortedByClient };
        self.end(how);
    }
}

/// Drops this when it has gone. Most have at once; a task waits for those that have not.
pub(in crate::uplink) fn let_go<T: Send + 'static>(
    uplink: &Uplink,
    mut what: T,
    mut poll_gone: impl FnMut(&mut T, &mut Context<'_>) -> Poll<()> + Send + 'static,
) {
    if poll_gone(&mut what, &mut Context::from_waker(noop_waker_ref())).is_ready() {
        return;
    }
    // Outside of a runtime nobody can wait.
    let Ok(runtime) = Handle::try_current() else { return };
    let uplink = uplink.clone();
    let gone = async move {
        uplink.0.unless_ended(std::future::poll_fn(|cx| poll_gone(&mut what, cx))).await;
        drop(what);
    };
    runtime.spawn(gone.in_current_span());
}
