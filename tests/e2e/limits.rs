//! The limits of the config are in force, for owners and for all, and follow the config while the server runs.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use tunnel_api::rpc::v1::OpenTunnelRequest;
use tunnel_backends::quotas::InUse;
use tunnel_server::{Config, Running, config::Cap};
use tunnel_tests::{
    credentials::{Authorized, CredentialsFile, rpc_as},
    limit::within,
    server::{rpc, server_with},
};

/// How many tunnels it gets until it is refused, and the refusal.
async fn open_all(rpc: &mut Authorized) -> (usize, Status) {
    for opened in 0..1000 {
        if let Err(refusal) = rpc.open_tunnel(OpenTunnelRequest::default()).await {
            return (opened, refusal);
        }
    }
    panic!("no limit");
}

fn assert_limit(refusal: &Status, words: &str) {
    let retry = refusal.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message().contains(words), "{refusal:?}");
    assert!(retry.is_some_and(|after| after > Duration::ZERO), "{refusal:?}");
}

fn change(config: &mut Config, tunnels: usize) {
    config.limits.owner.tunnels = Some(Cap::At(tunnels));
    config.limits.owner.opens_per_second = Some(Cap::Unlimited);
}

async fn server(file: &CredentialsFile) -> (Running, Config) {
    let mut in_force = Config::default();
    let server = server_with(|config| {
        config.credentials = Some(file.path());
        change(config, 3);
        in_force = config.clone();
    })
    .await;
    (server, in_force)
}

#[tokio::test]
async fn each_owner_has_its_limits_and_is_told_which_and_when_to_try_again() {
    within(async {
        let file = CredentialsFile::new();
        let (alice, bob) = (file.add("alice"), file.add("bob"));
        let (server, _) = server(&file).await;
        for (token, owner) in [(&alice, "alice"), (&bob, "bob")] {
            let (opened, refusal) = open_all(&mut rpc_as(&server, token).await).await;
            assert_eq!(opened, 3, "{refusal:?}");
            assert_limit(&refusal, &format!("{owner} has 3 tunnels open, and limits.owner.tunnels allows 3"));
        }
        assert_eq!(server.quotas().in_use(), InUse { tunnels: 6, ..InUse::default() });
    })
    .await;
}

#[tokio::test]
async fn opens_of_an_owner_are_ten_a_second_unless_the_config_says_otherwise() {
    within(async {
        let file = CredentialsFile::new();
        let alice = file.add("alice");
        let server = server_with(|config| config.credentials = Some(file.path())).await;
        let (opened, refusal) = open_all(&mut rpc_as(&server, &alice).await).await;
        assert!((10..50).contains(&opened), "{opened}");
        assert_limit(
            &refusal,
            "alice opens more than 10 tunnels a second, as many as limits.owner.opens_per_second allows",
        );
    })
    .await;
}

#[tokio::test]
async fn a_reload_puts_limits_in_force_and_cuts_nothing() {
    within(async {
        let file = CredentialsFile::new();
        let alice = file.add("alice");
        let (server, mut config) = server(&file).await;
        let mut rpc = rpc_as(&server, &alice).await;
        assert_eq!(open_all(&mut rpc).await.0, 3);

        change(&mut config, 5);
        assert!(server.reload(&config).unwrap().is_empty());
        assert_eq!(open_all(&mut rpc).await.0, 2);

        change(&mut config, 1);
        server.reload(&config).unwrap();
        let (opened, refusal) = open_all(&mut rpc).await;
        assert_eq!((opened, server.quotas().in_use().tunnels), (0, 5));
        assert_limit(&refusal, "alice has 5 tunnels open, and limits.owner.tunnels allows 1");
    })
    .await;
}

#[tokio::test]
async fn without_credentials_only_the_limits_of_all_together_count() {
    within(async {
        let server = server_with(|config| {
            change(config, 1);
            config.limits.tunnels = Some(Cap::At(20));
        })
        .await;
        let mut rpc = rpc(&server).await;
        for _ in 0..20 {
            rpc.open_tunnel(OpenTunnelRequest::default()).await.unwrap();
        }
        let refusal = rpc.open_tunnel(OpenTunnelRequest::default()).await.unwrap_err();
        assert_limit(&refusal, "the server has 20 tunnels open, and limits.tunnels allows 20");
    })
    .await;
}
