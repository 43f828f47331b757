//! What the tunnel's clients asked for, as the server tells it: for whoever wants to show it, and slowing nobody down.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, mpsc};
use tunnel_api::{RequestEnded, What};

/// The requests of a tunnel's clients, each when it has ended.
///
/// Those that are not read in time are counted, and held up nothing.
#[derive(Debug)]
pub struct Requests {
    ended: mpsc::Receiver<RequestEnded>,
    missed: Arc<AtomicU64>,
}

/// What [`Requests`] tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestNews {
    /// A request was answered, or came to nothing.
    Ended(RequestEnded),
    /// So many others did that were not read in time.
    Missed(u64),
}

impl Requests {
    /// The next news; `None` when there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Option<RequestNews> {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            return Some(RequestNews::Missed(missed));
        }
        self.ended.recv().await.map(RequestNews::Ended)
    }
}

/// Where the keeper passes on what it hears.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    reader: Mutex<Option<(mpsc::Sender<RequestEnded>, Arc<AtomicU64>)>>,
    changed: Notify,
}

impl Feed {
    /// From now on they go here.
    pub(crate) fn reader(&self) -> Requests {
        let (ended_in, ended) = mpsc::channel(HELD);
        let missed = Arc::<AtomicU64>::default();
        let before = self.lock().replace((ended_in, missed.clone()));
        if before.is_none() {
            self.changed.notify_one();
        }
        Requests { ended, missed }
    }

    /// Whether anybody has asked for them.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().is_some()
    }

    /// Resolves once after somebody has asked where nobody had.
    pub(crate) async fn becomes_wanted(&self) {
        self.changed.notified().await;
    }

    /// Passes it on, if it is of requests.
    pub(crate) fn tell(&self, what: What) {
        let reader = self.lock();
        let Some((ended, missed)) = &*reader else { return };
        match what {
            What::RequestEnded(request) => {
                if let Err(mpsc::error::TrySendError::Full(_)) = ended.try_send(*request) {
                    missed.fetch_add(1, Ordering::Relaxed);
                }
            }
            What::RequestsMissed { missed: more } => {
                missed.fetch_add(more, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(mpsc::Sender<RequestEnded>, Arc<AtomicU64>)>> {
        // Nothing panics while it is held.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests that nobody has read yet. The server tells what has gathered with it, up to 1,024, at once.
const HELD: usize = 2048;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tunnel_api::StreamEnd;

    use super::*;

    fn ended(path: String) -> What {
        What::RequestEnded(Box::new(RequestEnded {
            client: "192.0.2.1:2".parse().unwrap(),
            method: "GET".to_owned(),
            host: "blog.localhost".to_owned(),
            path,
            status: Some(200),
            end: StreamEnd::Finished,
            bytes_to_agent: 0,
            bytes_to_client: 4,
            first_byte: Some(Duration::from_millis(1)),
            duration: Duration::from_millis(2),
        }))
    }

    #[tokio::test]
    async fn what_is_not_read_in_time_is_counted_and_holds_up_nothing() {
        let feed = Feed::default();
        feed.tell(ended("/before".to_owned()));
        let mut requests = feed.reader();
        for number in 0..HELD + 3 {
            feed.tell(ended(number.to_string()));
        }
        feed.tell(What::RequestsMissed { missed: 4 });
        assert_eq!(requests.next().await, Some(RequestNews::Missed(7)));
        for number in 0..HELD {
            let news = requests.next().await;
            assert!(matches!(&news, Some(RequestNews::Ended(it)) if it.path == number.to_string()), "{news:?}");
        }
        drop(feed);
        assert_eq!(requests.next().await, None);
    }
}
