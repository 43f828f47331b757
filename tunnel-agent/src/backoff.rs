use std::time::{Duration, Instant};

use tunnel_backends::carrier::DialError;

/// When to try again after a failure: after a random time between nothing and a cap that doubles with each failure, so that
/// a thousand agents do not come back in one burst.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    last: Option<Instant>,
}

/// How the last attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Somebody answered, and refused.
    Refused,
    /// Nothing answered: trying again soon costs nobody anything, and the network may be back.
    Silent,
}

impl Failure {
    pub(crate) fn of(error: &DialError) -> Self {
        match error {
            // No route and no name are a network that is away.
            DialError::Silent(_) | DialError::Failed(_) => Self::Silent,
            _ => Self::Refused,
        }
    }
}

impl Backoff {
    /// How long to wait now.
    pub(crate) fn after(&mut self, failure: Failure) -> Duration {
        if self.last.is_some_and(|last| last.elapsed() > HEALTHY) {
            self.failures = 0;
        }
        self.last = Some(Instant::now());
        let most = match failure {
            Failure::Refused => LONGEST_AFTER_REFUSAL,
            Failure::Silent => LONGEST_AFTER_SILENCE,
        };
        let cap = FIRST.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures += 1;
        cap.mul_f64(rand::random())
    }

    /// Things went well.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST_AFTER_REFUSAL: Duration = Duration::from_secs(30);
const LONGEST_AFTER_SILENCE: Duration = Duration::from_secs(5);
const HEALTHY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_away_is_silence_and_not_a_refusal() {
        use std::io::{Error, ErrorKind};
        for kind in [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable, ErrorKind::NotFound] {
            assert_eq!(Failure::of(&DialError::Failed(Error::from(kind))), Failure::Silent, "{kind}");
        }
        assert_eq!(Failure::of(&DialError::Refused(ErrorKind::ConnectionRefused.into())), Failure::Refused);
    }

    #[test]
    fn the_wait_grows_up_to_its_cap_and_is_random() {
        let longest = |failure, times| {
            let waits = (0..300).map(|_| {
                let mut backoff = Backoff::default();
                (0..times).fold(Duration::ZERO, |_, _| backoff.after(failure))
            });
            let waits: Vec<_> = waits.collect();
            assert!(waits.iter().any(|wait| *wait != waits[0]));
            waits.into_iter().max().unwrap_or_default()
        };
        assert!(longest(Failure::Refused, 1) <= FIRST);
        assert!(longest(Failure::Refused, 3) > FIRST);
        let (refused, silent) = (longest(Failure::Refused, 20), longest(Failure::Silent, 20));
        assert!(refused > LONGEST_AFTER_SILENCE && refused <= LONGEST_AFTER_REFUSAL, "{refused:?}");
        assert!(silent > FIRST && silent <= LONGEST_AFTER_SILENCE, "{silent:?}");
    }
}
