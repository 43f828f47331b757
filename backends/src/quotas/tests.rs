use std::time::Duration;

use tokio::time::advance;
use tunnel_api::{CredentialId, TunnelError};

use super::*;

/// Somebody with credentials.
fn caller(owner: &str) -> Caller {
    let credential = Some(CredentialId::new("c-1"));
    Caller { owner: Owner::new(owner), credential, ..Caller::embedded() }
}

fn tunnels(limit: usize) -> Limits {
    Limits { tunnels: Some(limit), ..Limits::default() }
}

fn opens(rate: f64) -> Limits {
    Limits { opens_per_second: Some(rate), ..Limits::default() }
}

/// As many as there are to be had.
fn take_all(share: &Share, what: Counted) -> Vec<Permit> {
    std::iter::from_fn(|| share.take(what).ok()).take(1000).collect()
}

fn said(refused: Refused) -> String {
    let why = refused.to_string();
    let TunnelError::LimitReached { limit, retry_after: Some(after) } = TunnelError::from(refused) else {
        panic!("not a limit, or not when to try again");
    };
    assert_eq!(limit, why);
    assert!(!after.is_zero());
    why
}

#[test]
fn each_owner_has_its_own_and_gets_back_what_it_gives_back() {
    let quotas = Quotas::new(Limits::default(), tunnels(2));
    let (alice, bob) = (quotas.share(&caller("alice")), quotas.share(&caller("bob")));
    let mut hers = take_all(&alice, Counted::Tunnels);
    assert_eq!(hers.len(), 2);
    assert_eq!(take_all(&bob, Counted::Tunnels).len(), 2);
    let refused = said(quotas.share(&caller("alice")).take(Counted::Tunnels).unwrap_err());
    assert_eq!(refused, "alice has 2 tunnels open, and limits.owner.tunnels allows 2; close one, or try again later");
    hers.pop();
    assert!(alice.take(Counted::Tunnels).is_ok());
}

#[test]
fn what_is_counted_is_counted_apart() {
    let limits = Limits { tunnels: Some(1), streams: Some(2), waiting_clients: Some(3), ..Limits::default() };
    let quotas = Quotas::new(Limits::default(), limits);
    let alice = quotas.share(&caller("alice"));
    let counted = [Counted::Tunnels, Counted::Streams, Counted::WaitingClients].map(|what| take_all(&alice, what));
    assert_eq!(counted.each_ref().map(Vec::len), [1, 2, 3]);
    let all = InUse { tunnels: 1, streams: 2, waiting_clients: 3 };
    assert_eq!((quotas.in_use(), quotas.in_use_by(&Owner::new("alice"))), (all, all));
    drop(counted);
    assert_eq!((quotas.in_use(), quotas.in_use_by(&Owner::new("alice"))), Default::default());
}

#[test]
fn all_together_have_no_more_than_the_server() {
    let quotas = Quotas::new(tunnels(3), tunnels(2));
    let (alice, bob) = (quotas.share(&caller("alice")), quotas.share(&caller("bob")));
    let (hers, his) = (take_all(&alice, Counted::Tunnels), take_all(&bob, Counted::Tunnels));
    assert_eq!((hers.len(), his.len()), (2, 1));
    let refused = said(bob.take(Counted::Tunnels).unwrap_err());
    assert_eq!(refused, "the server has 3 tunnels open, and limits.tunnels allows 3; try again later");
    // Who was refused there has taken nothing of its own.
    assert_eq!(quotas.in_use_by(&Owner::new("bob")).tunnels, 1);
}

#[test]
fn callers_without_credentials_are_held_to_the_overall_limits_only() {
    let quotas = Quotas::new(tunnels(20), Limits { tunnels: Some(1), ..opens(1.0) });
    let local = quotas.share(&Caller::embedded());
    assert_eq!(take_all(&local, Counted::Tunnels).len(), 20);
    assert!((0..100).all(|_| local.ask_to_open().is_ok()));
}

#[test]
fn the_last_tenth_is_for_those_who_have_little() {
    let quotas = Quotas::new(tunnels(100), Limits::default());
    let greedy = take_all(&quotas.share(&caller("greedy")), Counted::Tunnels);
    assert_eq!(greedy.len(), 90);
    let refused = said(quotas.share(&caller("greedy")).take(Counted::Tunnels).unwrap_err());
    assert!(refused.contains("limits.tunnels allows (100)") && refused.contains("few"), "{refused}");
    let modest = take_all(&quotas.share(&caller("modest")), Counted::Tunnels);
    assert_eq!(modest.len(), 10);
}

#[test]
fn a_limit_that_is_lowered_cuts_nothing_and_lets_nothing_in_until_there_is_room() {
    let quotas = Quotas::new(Limits::default(), tunnels(5));
    let alice = quotas.share(&caller("alice"));
    let mut hers = take_all(&alice, Counted::Tunnels);
    quotas.set_owner_default(tunnels(3));
    let refused = said(alice.take(Counted::Tunnels).unwrap_err());
    assert!(refused.contains("has 5 tunnels open, and limits.owner.tunnels allows 3"), "{refused}");
    hers.truncate(3);
    assert!(alice.take(Counted::Tunnels).is_err());
    hers.truncate(2);
    assert!(alice.take(Counted::Tunnels).is_ok());
    quotas.set_overall(tunnels(2));
    assert!(alice.take(Counted::Tunnels).is_err());
    quotas.set_overall(Limits::default());
    assert!(alice.take(Counted::Tunnels).is_ok());
}

#[test]
fn limits_of_an_owners_own_are_in_force_at_once_and_stay_when_the_default_changes() {
    let quotas = Quotas::new(Limits::default(), tunnels(1));
    let alice = quotas.share(&caller("alice"));
    quotas.set_owner(&Owner::new("alice"), Some(tunnels(4)));
    quotas.set_owner(&Owner::new("bob"), Some(tunnels(3)));
    quotas.set_owner_default(tunnels(2));
    let count = |owner| take_all(&quotas.share(&caller(owner)), Counted::Tunnels).len();
    assert_eq!(["alice", "bob", "carol"].map(count), [4, 3, 2]);
    quotas.set_owner(&Owner::new("alice"), None);
    assert_eq!(take_all(&alice, Counted::Tunnels).len(), 2);
}

#[test]
fn what_comes_back_is_counted_even_beyond_the_limit() {
    let quotas = Quotas::new(tunnels(1), tunnels(1));
    let alice = quotas.share(&caller("alice"));
    let restored: Vec<_> = (0..3).map(|_| alice.take_again(Counted::Tunnels)).collect();
    assert_eq!(quotas.in_use().tunnels, 3);
    assert!(alice.take(Counted::Tunnels).is_err());
    drop(restored);
    assert!(alice.take(Counted::Tunnels).is_ok());
}

#[tokio::test(start_paused = true)]
async fn opens_of_one_second_may_come_at_once_and_then_as_fast_as_the_rate() {
    let quotas = Quotas::new(Limits::default(), opens(10.0));
    let alice = quotas.share(&caller("alice"));
    let at_once = || (0..100).take_while(|_| alice.ask_to_open().is_ok()).count();
    assert_eq!(at_once(), 10);
    let refused = alice.ask_to_open().unwrap_err();
    assert_eq!((refused.limit(), refused.retry_after()), ("owner.opens_per_second", Duration::from_millis(100)));
    assert_eq!(
        said(refused),
        "alice opens more than 10 tunnels a second, as many as limits.owner.opens_per_second allows; try again in 100 ms"
    );
    // Whoever comes when it was told to is let in.
    advance(Duration::from_millis(100)).await;
    assert_eq!(at_once(), 1);
    advance(Duration::from_secs(3600)).await;
    assert_eq!(at_once(), 10);
    assert!(quotas.share(&caller("bob")).ask_to_open().is_ok());
}

#[tokio::test(start_paused = true)]
async fn less_than_one_open_a_second_is_one_now_and_then() {
    let quotas = Quotas::new(opens(0.1), Limits::default());
    let alice = quotas.share(&caller("alice"));
    assert!(alice.ask_to_open().is_ok());
    assert_eq!(alice.ask_to_open().unwrap_err().retry_after(), Duration::from_secs(10));
    advance(Duration::from_secs(10)).await;
    assert!(alice.ask_to_open().is_ok());
    assert!(alice.ask_to_open().is_err());
}

#[test]
fn no_opens_at_all_is_a_limit_too() {
    let quotas = Quotas::new(opens(0.0), Limits::default());
    let local = quotas.share(&Caller::embedded());
    assert!(local.ask_to_open().is_ok_and(|()| local.ask_to_open().is_err()));
}

#[test]
fn a_pace_goes_by_the_owner_first_and_follows_the_limits() {
    let quotas = Quotas::new(Limits::default(), Limits::default());
    let (alice, local) = (quotas.share(&caller("alice")).pace(), quotas.share(&Caller::embedded()).pace());
    assert_eq!([&alice.to_agent, &alice.to_client, &local.to_agent, &local.to_client].map(Vec::len), [2, 2, 1, 1]);
    assert!(Arc::ptr_eq(&alice.to_agent[1], &local.to_agent[0]));
    assert!(!Arc::ptr_eq(&alice.to_agent[1], &alice.to_client[1]));
}

/// Owners come and go, as many as there are certificates.
#[tokio::test(start_paused = true)]
async fn owners_that_have_nothing_are_forgotten() {
    let quotas = Quotas::new(Limits::default(), opens(1.0));
    let kept = quotas.share(&caller("kept")).take(Counted::Tunnels).unwrap();
    quotas.share(&caller("busy")).ask_to_open().unwrap();
    for number in 0..10 * FEWEST_SWEPT {
        drop(quotas.share(&caller(&number.to_string())));
    }
    let owners = quotas.lock();
    assert!(owners.ledgers.len() <= 2 * FEWEST_SWEPT, "{}", owners.ledgers.len());
    assert!(owners.ledgers.contains_key(&Owner::new("kept")) && owners.ledgers.contains_key(&Owner::new("busy")));
    drop(owners);
    drop(kept);
}
