//! Whatever two ends say and take, in whatever steps: what must be true of every relay.

use std::{
    io::ErrorKind,
    sync::{Arc, PoisonError},
    time::Duration,
};

use proptest::{collection::vec, option, prelude::*, test_runner::TestRunner};
use tokio::{runtime::Builder, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    HOUR,
    scripted::{Past, Say, Script, Take},
    within_limit,
};
use crate::relay::{Bucket, Pace, Progress, RelayEnd, RelayTimes, Side, relay};

/// Far more than all waits of a script together, so that nobody is cut short who merely is slow.
const TIMES: RelayTimes =
    RelayTimes { linger: HOUR, half_closed: HOUR.saturating_mul(2), unread: HOUR.saturating_mul(2) };

#[test]
fn every_relay_delivers_what_was_said_and_ends_as_its_ends_did() {
    within_limit(|| {
        let mut runner =
            TestRunner::new(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() });
        runner
            .run(&(script(), script(), option::of(10_000..10_000_000u64)), |(client, agent, rate)| {
                run(&client, &agent, rate)
            })
            .unwrap_or_else(|failed| panic!("{failed}"));
    });
}

/// If there is a rate, no direction goes faster.
fn run(client: &Script, agent: &Script, rate: Option<u64>) -> Result<(), TestCaseError> {
    let (client_end, client_past) = client.clone().end();
    let (agent_end, agent_past) = agent.clone().end();
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let end = runtime.block_on(async {
        let bucket = || rate.into_iter().map(|rate| Arc::new(Bucket::new(Some(rate)))).collect();
        let pace = Pace { to_agent: bucket(), to_client: bucket() };
        let running = relay(client_end, agent_end, &progress, &pace, &TIMES, &cancel);
        tokio::pin!(running);
        // For two ends that stay silent; the clock jumps there.
        match timeout(24 * HOUR, &mut running).await {
            Ok(end) => Ok(end),
            Err(_) => {
                cancel.cancel();
                timeout(HOUR, running).await
            }
        }
    });
    let end = end.map_err(|_| TestCaseError::fail("it never ended"))?;

    let client_past = client_past.lock().unwrap_or_else(PoisonError::into_inner);
    let agent_past = agent_past.lock().unwrap_or_else(PoisonError::into_inner);
    let client = Told { side: Side::Client, script: client, past: &client_past, delivered: progress.to_client() };
    let agent = Told { side: Side::Agent, script: agent, past: &agent_past, delivered: progress.to_agent() };
    check(end, &client, &agent)?;
    check(end, &agent, &client)
}

/// One end after a relay.
struct Told<'a> {
    side: Side,
    script: &'a Script,
    past: &'a Past,
    /// What the relay says that it took.
    delivered: u64,
}

/// What must be true of `source`'s direction, and of `sink` as an end.
fn check(end: RelayEnd, source: &Told<'_>, sink: &Told<'_>) -> Result<(), TestCaseError> {
    let (said, heard) = (source.script.words(), &sink.past.heard);
    let all_heard = heard.len() == said.len();
    prop_assert_eq!(&sink.past.wrongs, &Vec::<&str>::new());
    prop_assert!(said.starts_with(heard), "{} heard {} bytes, not the first of {}", sink, heard.len(), said.len());
    prop_assert_eq!(sink.delivered, heard.len() as u64, "the count of what {} took", sink);

    // An end is passed on once, after all bytes, if there was one.
    prop_assert!(sink.past.shutdowns <= 1, "{} was told {} ends", sink, sink.past.shutdowns);
    if sink.past.shutdowns > 0 {
        prop_assert!(source.past.has_finished, "{} was told an end that {} did not say", sink, source);
        prop_assert!(all_heard, "{} was told an end after {} bytes of {}", sink, heard.len(), said.len());
    }

    let is_aborted = matches!(end, RelayEnd::Aborted(_) | RelayEnd::Stalled | RelayEnd::Cancelled);
    prop_assert_eq!(sink.past.aborted.is_some(), is_aborted, "whether {} was aborted at {:?}", sink, end);
    match end {
        RelayEnd::Finished => {
            // Nothing is missing where somebody listened.
            if sink.past.write_failed.is_none() {
                prop_assert!(all_heard, "{} heard {} bytes of {}", sink, heard.len(), said.len());
                prop_assert_eq!(sink.past.shutdowns, 1, "{} was told an end", sink);
            }
            // An abort by a side that nobody listens to any more is none.
            let unheard = source.past.write_failed.is_some();
            prop_assert!(!sink.aborted() || unheard && !sink.refused(), "{} had aborted", sink);
        }
        RelayEnd::Aborted(side) if side == source.side => {
            prop_assert!(source.aborted(), "{} had not aborted", source);
            if sink.past.write_failed.is_none() && !sink.never_takes() {
                prop_assert!(all_heard, "{} heard {} bytes of {} before the abort", sink, heard.len(), said.len());
                // Waiting for more from a silent one uses up the time for it.
                let in_time = sink.past.aborted_after_sent || source.is_silent();
                prop_assert!(in_time, "{} was aborted with bytes on their way", sink);
            }
        }
        RelayEnd::Aborted(_) => {}
        RelayEnd::Stalled => prop_assert!(
            source.is_silent() || sink.is_silent() || source.never_takes() || sink.never_takes(),
            "there was nothing to wait for"
        ),
        RelayEnd::Cancelled => prop_assert!(source.is_silent() && sink.is_silent(), "there was nothing to cancel"),
    }
    Ok(())
}

impl Told<'_> {
    fn aborted(&self) -> bool {
        self.past.has_aborted || self.refused()
    }

    /// It failed to take what was for it although it had not finished.
    fn refused(&self) -> bool {
        self.past.write_failed.is_some_and(|kind| kind != ErrorKind::BrokenPipe) && !self.past.had_finished_before
    }

    fn is_silent(&self) -> bool {
        self.script.says.iter().any(|say| matches!(say, Say::Silence))
    }

    fn never_takes(&self) -> bool {
        self.script.takes.iter().any(|take| matches!(take, Take::Never))
    }
}

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {:?}", self.side)
    }
}

fn script() -> impl Strategy<Value = Script> {
    let says = prop_oneof![
        6 => (1..2000usize).prop_map(Say::Bytes),
        1 => (60_000..140_000usize).prop_map(Say::Bytes),
        3 => wait().prop_map(Say::Wait),
    ];
    let last_say = prop_oneof![4 => Just(Say::Finish), 1 => Just(Say::Abort), 1 => Just(Say::Silence)];
    let takes = prop_oneof![3 => (1..5000usize).prop_map(Take::UpTo), 2 => wait().prop_map(Take::Wait)];
    let last_take = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Take::Fail(ErrorKind::ConnectionReset))),
        1 => Just(Some(Take::Fail(ErrorKind::BrokenPipe))),
        1 => Just(Some(Take::Nothing)),
        1 => Just(Some(Take::Never)),
    ];
    let talk = (vec(says, 0..12), last_say, vec(takes, 0..16), last_take);
    (talk, vec(wait(), 0..3), vec(wait(), 0..3), any::<bool>(), option::of(wait())).prop_map(
        |((mut says, last_say, mut takes, last_take), shutdown_waits, sent_waits, claims_readable, aborts_after)| {
            // Only an end that has finished breaks a pipe.
            let broken_pipe = matches!(last_take, Some(Take::Fail(ErrorKind::BrokenPipe)));
            says.push(if broken_pipe { Say::Finish } else { last_say });
            takes.extend(last_take);
            let aborts_after = aborts_after.filter(|_| matches!(says.last(), Some(Say::Abort)));
            Script { says, takes, shutdown_waits, sent_waits, claims_readable, aborts_after }
        },
    )
}

fn wait() -> impl Strategy<Value = Duration> {
    (0..40u64).prop_map(Duration::from_millis)
}
