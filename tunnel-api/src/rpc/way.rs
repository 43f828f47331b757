use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// It is known already, so it was not tried, and nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("HTTP/2 does not get through")]
pub(super) struct NoHttp2;

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

impl Known {
    fn forget_unless_http1(&mut self) {
        if self.http1 == 0 {
            self.http2 = None;
        }
    }
}

impl Way {
    /// A connection of HTTP/2 is there.
    pub(super) fn has_http2(&self) -> bool {
        self.known().http2 == Some(true)
    }

    /// It has been tried, and HTTP/1.1 is what is left.
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

    /// Whether a connection of HTTP/1.1 may be made.
    pub(super) fn check_http1(&self) -> Result<(), Forgotten> {
        if self.has_no_http2() { Ok(()) } else { Err(Forgotten) }
    }

    /// HTTP/1.1 did not get through either.
    pub(super) fn forget_unless_http1(&self) {
        self.known().forget_unless_http1();
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
        self.0.known().forget_unless_http1();
    }
}

#[derive(Debug)]
pub(super) struct WithHttp1(Way);

impl Drop for WithHttp1 {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.http1 -= 1;
        known.forget_unless_http1();
    }
}
