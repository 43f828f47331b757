//! `tunnel http` and `tunnel tls`, as far as they need no server that has names.

use crate::rig::run;

#[tokio::test]
async fn a_name_that_can_be_no_host_is_told_what_to_add() {
    let (_backend, url) = crate::rig::service().await;
    for command in ["http", "tls"] {
        let ended = run(&[command, "3000", "--server", &url, "--name", "team/blog"]).await;
        assert_eq!(ended.code, Some(2), "{command}");
        assert!(ended.stderr.contains("say with --host"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn help_says_what_the_service_has_to_know() {
    for (command, parts) in [
        ("http", &["--host-header <HOST|rewrite>", "--h2c", "X-Forwarded-For", "tunnel http 3000 --name blog"][..]),
        ("tls", &["--host <HOST>", "SNI", "tunnel tls 8443 --name db"]),
    ] {
        let ended = run(&[command, "--help"]).await;
        for part in parts {
            assert!(ended.stdout.contains(part), "no {part:?} in {}", ended.stdout);
        }
    }
}
