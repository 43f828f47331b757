//! A client's way to a place in a session.

use super::{NoStream, Uplink};
use crate::{
    meters::Waits,
    quotas::{Counted, Permit},
    sessions::Place,
};

/// Looks for a place, and for another one where that place's session has gone meanwhile.
pub(super) struct Seeking<'a> {
    uplink: &'a Uplink,
    /// Only who does not get a place at once waits.
    waits: Option<(Permit, Waits)>,
}

impl<'a> Seeking<'a> {
    pub(super) fn new(uplink: &'a Uplink) -> Self {
        Self { uplink, waits: None }
    }

    /// One that would have to wait where too many do is refused.
    pub(super) async fn next(&mut self) -> Result<Place, NoStream> {
        let inner = &self.uplink.0;
        if self.waits.is_none() {
            if let Some(place) = inner.sessions.take_at_once() {
                return Ok(place);
            }
            self.waits = Some((inner.share.take(Counted::WaitingClients)?, self.uplink.meters().client_waits()));
        }
        Ok(inner.sessions.take().await)
    }
}
