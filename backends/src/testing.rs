//! The conformance kit: what every carrier and front promises, as tests that know neither.
//!
//! A backend runs all of it with one line in a test target:
//!
//! ```ignore
//! tunnel_backends::conformance!(Mux);
//! ```
//!
//! where `Mux` is its [`Rig`]: how to make a fresh backend. The agent's side is the carrier's own dialler, the clients are
//! plain TCP. A promise is an `async fn` in one of the files below, named for what it promises;
//! [`conformance!`](crate::conformance) lists them all. What is special to one wire has its own test target, and may use the
//! same tools.
//!
//! The tools: [`rig`] (a backend on a stage), [`door`], [`agent`], [`client`], [`watch`]. The promises: [`bytes`], [`ends`],
//! [`waits`], [`crowds`], [`lookups`], [`news`], [`leases`], [`limits`]; and [`churn`], which counts what is left at the end and
//! therefore needs a process of its own.

pub mod agent;
pub mod client;
pub mod door;
pub mod rig;
pub mod watch;

pub mod bytes;
pub mod churn;
pub mod crowds;
pub mod ends;
pub mod leases;
pub mod limits;
pub mod lookups;
pub mod news;
pub mod waits;

use std::{
    fmt,
    future::Future,
    io::{self, Write as _},
    process,
    sync::mpsc,
    thread,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

pub use agent::{AgentStream, Serving, TestAgent, echo, trust};
pub use client::{Heard, connect, hear, pattern, say};
pub use door::BehindDoor;
pub use rig::{Rig, Setup, Stage};
pub use watch::Watch;

/// Runs one promise: on a runtime of its own, with a time limit.
pub fn keep(rig: &dyn Rig, promise: impl AsyncFnOnce(&dyn Rig)) {
    crate::process::raise_descriptor_limit();
    let _watchdog = watchdog();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(within(LIMIT, "the whole promise", promise(rig)));
    runtime.shutdown_background();
}

/// Ends the process if what it gives is still held well after [`LIMIT`]: a task that never yields also keeps the
/// runtime from noticing the time.
fn watchdog() -> mpsc::Sender<()> {
    let (alive, gone) = mpsc::channel();
    let promise = thread::current().name().unwrap_or("a promise").to_owned();
    thread::spawn(move || {
        if gone.recv_timeout(2 * LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Not by `eprintln`, which would be captured and lost.
            let _ = writeln!(io::stderr(), "{promise}: the runtime hangs");
            process::abort();
        }
    });
    alive
}

/// What `future` gives, which has to be within `limit`.
pub async fn within<T>(limit: Duration, what: impl fmt::Display, future: impl Future<Output = T>) -> T {
    match timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// What `future` gives. It is expected at once; the limit is there so that a failure says what was being waited for.
pub async fn soon<T>(what: impl fmt::Display, future: impl Future<Output = T>) -> T {
    within(SOON, what, future).await
}

/// Returns once `holds` does. For what no event tells, such as a port's being free again.
pub async fn eventually(what: impl fmt::Display, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Runs every promise of the kit on a [`Rig`], each as a test of its own.
#[macro_export]
macro_rules! conformance {
    ($rig:expr) => {
        $crate::conformance! { @list $rig;
            bytes {
                every_size_comes_back_as_it_was_sent
                both_directions_carry_bytes_at_once
                a_server_that_speaks_first_is_heard
                the_agent_learns_the_clients_real_address
            }
            ends {
                a_client_that_half_closes_still_gets_its_answer
                an_agent_that_half_closes_still_gets_what_the_client_sends
                a_finished_stream_is_reported_with_its_bytes
                a_client_that_resets_is_an_abort_to_the_agent
                an_agent_that_aborts_is_a_reset_to_the_client
                what_was_said_before_an_abort_is_heard_before_it
                what_was_said_before_an_abort_reaches_a_slow_reader
                a_truncated_answer_never_looks_complete
                an_answer_survives_an_upload_that_nobody_wants
                an_answer_survives_input_that_nobody_read
            }
            waits {
                a_client_that_comes_before_the_agent_is_served
                a_client_that_half_closes_while_it_waits_is_served
                a_client_that_waits_too_long_is_reset
                a_client_that_gives_up_costs_no_dial_in
            }
            crowds {
                many_clients_at_once_each_get_their_own_bytes
                a_stopped_reader_stops_nobody_else
                silent_clients_disturb_nobody
                clients_that_reset_at_once_disturb_nobody
                an_agent_killed_in_the_middle_resets_its_clients
                tunnels_do_not_mix
            }
            lookups {
                every_spelling_of_a_uri_finds_its_tunnel
                no_other_uri_finds_anything
                a_closed_tunnel_is_not_found
                nobody_else_finds_a_tunnel
                nobody_else_sees_a_tunnel
                a_list_comes_in_pages
                a_field_that_cannot_be_honoured_is_refused
            }
            news {
                a_watcher_hears_the_present_state_first
                a_tunnels_life_is_told_in_order
                an_agent_is_told_of_before_its_clients
                a_filter_admits_only_what_it_names
                a_watcher_may_leave_out_the_clients
                a_slow_watcher_is_told_and_starts_anew
                a_list_shows_how_a_tunnel_stands
            }
            leases {
                closing_a_tunnel_resets_its_streams_and_frees_its_port
                closing_a_tunnel_resets_the_clients_that_wait
                a_tunnel_is_closed_by_any_of_its_names
                an_open_that_is_dropped_reserves_nothing
                an_open_that_fails_reserves_nothing
                a_wanted_port_is_given
                opening_a_name_again_gives_the_same_tunnel
                opening_a_name_at_once_gives_one_tunnel
                a_name_with_other_parameters_is_a_conflict
                a_named_tunnel_keeps_its_address_while_its_agents_are_away
                a_name_is_its_owners_own
                an_agent_that_comes_back_in_time_finds_its_tunnel
                a_tunnel_that_nobody_dials_closes
                a_tunnel_closes_when_its_agents_are_gone_for_too_long
            }
            limits {
                a_client_that_a_tunnel_is_not_for_is_reset_and_no_agent_hears_of_it
                an_owner_has_no_more_tunnels_than_it_may
                opens_that_come_too_fast_are_told_when_to_come_again
                a_client_too_many_is_reset_and_the_next_one_is_served_when_there_is_room
                a_client_that_would_wait_is_reset_where_too_many_wait
                an_owner_at_its_limits_holds_up_nobody_else
                a_limit_that_is_lowered_cuts_nothing
                a_stream_goes_no_faster_than_its_owner_may
                what_fails_or_is_given_up_is_not_counted
            }
        }
    };
    (@list $rig:expr; $($theme:ident { $($promise:ident)+ })+) => {
        $(mod $theme {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $promise() {
                    $crate::testing::keep(&$rig, $crate::testing::$theme::$promise);
                }
            )+
        })+
    };
}

/// For a whole promise.
const LIMIT: Duration = Duration::from_secs(10);

/// Shorter than [`LIMIT`], and longer than anything takes on a busy machine.
const SOON: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_is_in_the_list() {
        let list = include_str!("testing.rs");
        let themes = [
            include_str!("testing/bytes.rs"),
            include_str!("testing/crowds.rs"),
            include_str!("testing/ends.rs"),
            include_str!("testing/leases.rs"),
            include_str!("testing/limits.rs"),
            include_str!("testing/lookups.rs"),
            include_str!("testing/news.rs"),
            include_str!("testing/waits.rs"),
        ];
        let promises: Vec<_> = themes
            .iter()
            .flat_map(|text| text.split("\npub async fn ").skip(1))
            .filter_map(|rest| rest.split('(').next())
            .collect();
        assert!(!promises.is_empty());
        for promise in promises {
            assert!(list.lines().any(|line| line.trim() == promise), "{promise} is not in the list");
        }
    }
}
