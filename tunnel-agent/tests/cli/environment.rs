use crate::rig::{finish, open, service, start, tunnel, tunnels};

async fn run_in(args: &[&str], variables: &[(&str, &str)]) -> crate::rig::Ended {
    let mut command = tunnel(args);
    command.envs(variables.iter().copied());
    finish(command).await
}

#[tokio::test]
async fn options_take_their_values_from_the_environment_unless_they_are_typed() {
    let (backend, url) = service().await;
    open(&backend, "db").await;
    let ended = run_in(&["list"], &[("TNL_SERVER", &url), ("TNL_OUTPUT", "json")]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with('{'), "{}", ended.stdout);

    for args in [["list", "--output", "text", "--server", &url], ["--server", &url, "list", "--output", "text"]] {
        let ended = run_in(&args, &[("TNL_SERVER", "ftp://nowhere"), ("TNL_OUTPUT", "json")]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.starts_with("NAME"), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn a_malformed_value_in_the_environment_ends_with_78_and_is_named() {
    for (variable, value) in [
        ("TNL_SERVER", "ftp://tunnels.example"),
        ("TNL_FINGERPRINT", "sha256:12"),
        ("TNL_TOKEN", "two words"),
        ("TNL_INSECURE", "perhaps"),
        ("TNL_SERVER", "nowhere:port"),
        ("TNL_OUTPUT", "xml"),
        ("TNL_PORT", "99999"),
        ("TNL_NAME", "no name"),
        ("TNL_PROXY_PROTOCOL", "perhaps"),
    ] {
        let ended = run_in(&["tcp", "3000"], &[(variable, value)]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(78), ""), "{variable}={value}: {}", ended.stderr);
        assert!(ended.stderr.contains(variable), "{variable}={value}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn wrong_usage_is_wrong_whatever_the_environment() {
    assert_eq!(run_in(&["tcp", "nowhere"], &[("TNL_PORT", "99999")]).await.code, Some(2));
    assert_eq!(run_in(&["list", "--server", "nowhere:port"], &[("TNL_SERVER", "x:y")]).await.code, Some(2));
}

#[tokio::test]
async fn an_empty_variable_is_none() {
    let (_backend, url) = service().await;
    let empty = ["TNL_NAME", "TNL_PORT", "TNL_BACKEND", "TNL_OUTPUT", "TNL_PROXY_PROTOCOL", "TNL_TOKEN", "TNL_CA"]
        .map(|name| (name, ""));
    let ended = run_in(&["list", "--server", &url], &empty).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test]
async fn a_bad_rust_log_is_said_and_left_out() {
    let (_backend, url) = service().await;
    let ended = run_in(&["list", "--server", &url], &[("RUST_LOG", "=,=")]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("RUST_LOG"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_server_may_be_named_before_the_subcommand_or_after_it() {
    let (backend, url) = service().await;
    let _before = start(&["--server", &url, "tcp", "1"]).await;
    let _after = start(&["tcp", "1", "--server", url.trim_start_matches("http://")]).await;
    assert_eq!(tunnels(&backend).await.len(), 2);
}
