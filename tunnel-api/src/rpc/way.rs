use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last connection of HTTP/1.1 is gone, and whether HTTP/2 would get through now has not been tried.
#[derive(Debug, thiserror::Error)]
#[error("the connection is gone")]
pub(super) struct Forgotten;

/// What is known of the way to a server. It is known of connections, and forgotten with the last of them: the next one may lead
/// through another proxy.
#[derive(Debug, Clone, Default)]
pub(super) struct Way(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Whether HTTP/2 gets through, as far as the last connection has shown.
    http2: Option<bool>,
    /// Connections that are there because it does not.
    http1: usize,
}

impl Way {
    /// HTTP/1.1 is what worked, and its connection is still there.
    pub(super) fn is_http1(&self) -> bool {
        self.known().http1 > 0
    }

    pub(super) fn has_http2(&self) -> bool {
        self.known().http2 == Some(true)
    }

    pub(super) fn has_no_http2(&self) -> bool {
        self.known().http2 == Some(false)
    }

    pub(super) fn is_without_http2(&self) {
        self.known().http2 = Some(false);
    }

    /// A connection of HTTP/2 is there as long as this is.
    pub(super) fn with_http2(&self) -> WithHttp2 {
        self.known().http2 = Some(true);
        WithHttp2(self.clone())
    }

    /// Whether another connection of HTTP/1.1 may be made.
    pub(super) fn check_http1(&self) -> Result<(), Forgotten> {
        let known = self.known();
        if known.http1 > 0 || known.http2 == Some(false) { Ok(()) } else { Err(Forgotten) }
    }

    /// A connection of HTTP/1.1 is there as long as this is.
    pub(super) fn with_http1(&self) -> WithHttp1 {
        self.known().http1 += 1;
        WithHttp1(self.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct WithHttp2(Way);

impl Drop for WithHttp2 {
    fn drop(&mut self) {
        self.0.known().http2 = None;
    }
}

#[derive(Debug)]
pub(super) struct WithHttp1(Way);

impl Drop for WithHttp1 {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.http1 -= 1;
        if known.http1 == 0 {
            known.http2 = None;
        }
    }
}
