//! What is waited for beside something busy.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

/// A future that is polled when it has been woken itself, and not whenever its task is: it may be there for a connection's whole
/// life, and to ask a dozen timers and tokens, some of them everybody's, costs locks.
pub struct Seldom<F> {
    future: F,
    bell: Arc<Bell>,
    waker: Waker,
}

impl<F> fmt::Debug for Seldom<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seldom").finish_non_exhaustive()
    }
}

/// What comes of it, unless that is cancelled first. In place, because a future that is handed on is moved each time, and is there as
/// often; and the token, which may be many tasks', is asked when it fires.
pub async fn unless_cancelled<F: Future>(token: &CancellationToken, what: Pin<&mut F>) -> Option<F::Output> {
    let cancelled = pin!(token.cancelled());
    tokio::select! {
        biased;
        () = Seldom::new(cancelled) => None,
        came_of_it = what => Some(came_of_it),
    }
}

struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl<F: Future + Unpin> Seldom<F> {
    /// Of a future that has not been polled yet.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future, waker: bell.clone().into(), bell }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Before it is looked whether it has rung, so that it is heard if it does now.
        this.bell.task.register(cx.waker());
        if !this.bell.has_rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_polled_as_often_as_it_is_woken() {
        let polls = AtomicU32::new(0);
        let mut timer = pin!(sleep(Duration::from_secs(1)));
        let counted = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            timer.as_mut().poll(cx)
        });
        let mut seldom = Seldom::new(counted);
        let mut busy = 0;
        loop {
            tokio::select! {
                biased;
                () = &mut seldom => break,
                () = sleep(Duration::from_millis(10)) => busy += 1,
            }
        }
        assert!(busy > 90, "{busy}");
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
