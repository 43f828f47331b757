//! `tunnel-server init` and `tunnel-server token`, as a shell sees them.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tunnel_server::Config;

/// Runs it in a directory; gives its exit code and what it said to whom.
fn run(directory: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-server"));
    let output = command.args(args).current_dir(directory).stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn a_new_token_goes_to_stdout_and_is_kept_nowhere() {
    let here = directory();
    let (code, token, said) = run(here.path(), &["token", "new", "--name", "alice"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(token.starts_with("tnl_") && token.ends_with('\n') && token.len() == 48, "{token:?}");
    let file = fs::read_to_string(here.path().join("credentials.toml")).expect("a file");
    let (_, listed, _) = run(here.path(), &["token", "list"]);
    for text in [&file, &listed, &said] {
        assert!(text.contains("k-") && !text.contains(token.trim()), "{text}");
    }
    assert!(file.contains("alice") && listed.contains("alice"));

    let (code, said, _) = run(here.path(), &["token", "new", "--name", "bob", "--output", "bob.token"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let mode = fs::metadata(here.path().join("bob.token")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn tokens_are_taken_back_by_id_or_by_owner() {
    let here = directory();
    for name in ["alice", "alice", "bob"] {
        run(here.path(), &["token", "new", "--name", name]);
    }
    let (code, _, said) = run(here.path(), &["token", "revoke", "--name", "alice"]);
    assert_eq!((code, said.lines().count()), (Some(0), 2), "{said}");
    let (_, listed, _) = run(here.path(), &["token", "list"]);
    assert!(listed.contains("bob") && !listed.contains("alice"), "{listed}");
    let id = listed.lines().nth(1).and_then(|line| line.split(' ').next()).expect("bob's id");
    assert_eq!(run(here.path(), &["token", "revoke", id]).0, Some(0));
    let (code, _, said) = run(here.path(), &["token", "revoke", id]);
    assert!(code == Some(1) && said.contains("token list"), "{said}");
}

#[test]
fn the_file_is_the_one_that_the_config_names() {
    let here = directory();
    fs::create_dir(here.path().join("etc")).expect("a directory");
    fs::write(here.path().join("etc/t.toml"), "credentials = \"who.toml\"").expect("a file");
    run(here.path(), &["token", "new", "--name", "alice", "--config", "etc/t.toml"]);
    assert!(here.path().join("etc/who.toml").exists());
    fs::write(here.path().join("tunnel-server.toml"), "credentials = \"here.toml\"").expect("a file");
    run(here.path(), &["token", "new", "--name", "alice"]);
    assert!(here.path().join("here.toml").exists() && !here.path().join("credentials.toml").exists());
    fs::write(here.path().join("tunnel-server.toml"), "").expect("a file");
    let (code, _, said) = run(here.path(), &["token", "list"]);
    assert!(code == Some(1) && said.contains("credentials = \"credentials.toml\""), "{said}");
}

#[test]
fn wrong_grants_are_said_and_change_nothing() {
    let here = directory();
    for (args, part, expected) in [
        (&["--name", "a/b"][..], "an owner's name", 1),
        (&["--name", "local"], "choose another name", 1),
        (&["--name", "a", "--port", "9-1"], "21000-21099", 1),
        (&["--name", "a", "--dial-from", "nowhere"], "--dial-from", 2),
        (&["--name", "a", "--expires", "soon"], "--expires", 2),
        (&["--name", "a", "--expires", "0s"], "over already", 2),
        (&["--name", "a", "--limit", "tunels=3"], "unknown field `tunels`", 1),
        (&["--name", "a", "--limit", "tunnels=0"], "above zero", 1),
        (&[], "--name", 2),
    ] {
        let (code, token, said) = run(here.path(), &[&["token", "new"], args].concat());
        assert_eq!((code, token.as_str()), (Some(expected), ""), "{said}");
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
    assert!(!here.path().join("credentials.toml").exists());
}

#[test]
fn init_writes_what_is_needed_and_says_how_an_agent_uses_it() {
    let here = directory();
    let (code, command, said) = run(here.path(), &["init", "etc", "--host", "tunnels.example", "--self-signed"]);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "tunnel http 3000",
        "--server https://tunnels.example:8010",
        "--token-file etc/admin.token",
        "--fingerprint sha256:",
    ] {
        assert!(command.contains(part), "{command:?} lacks {part:?}");
    }
    let token = fs::read_to_string(here.path().join("etc/admin.token")).expect("a token");
    assert!(!command.contains(token.trim()) && !said.contains(token.trim()));
    for secret in ["admin.token", "credentials.toml", "key.pem", "tunnel-server.toml"] {
        let mode = fs::metadata(here.path().join("etc").join(secret)).expect(secret).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let (code, _, said) = run(here.path(), &["check", "etc/tunnel-server.toml"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn init_puts_web_addresses_below_a_host_that_is_a_name() {
    let here = directory();
    for (host, kind, domain) in [("tunnels.example", "http", "tunnels.example"), ("192.0.2.1", "tcp", "localhost")] {
        let (code, command, said) = run(here.path(), &["init", host, "--host", host, "--self-signed"]);
        assert!(code == Some(0) && command.starts_with(&format!("tunnel {kind} 3000 ")), "{command}{said}");
        let config = Config::from_file(&here.path().join(host).join("tunnel-server.toml")).expect("a config");
        assert_eq!(config.names.domain.to_string(), domain);
    }
}

#[test]
fn init_never_writes_over_anything_and_needs_a_certificate_for_others() {
    let here = directory();
    let (code, command, _) = run(here.path(), &["init"]);
    assert!(code == Some(0) && command.contains("--server http://127.0.0.1:8010"), "{command}");
    let before = fs::read_to_string(here.path().join("tunnel-server.toml")).expect("a file");
    let (code, _, said) = run(here.path(), &["init", "--self-signed"]);
    assert!(code == Some(1) && said.contains("is there already"), "{said}");
    assert_eq!(fs::read_to_string(here.path().join("tunnel-server.toml")).expect("a file"), before);
    assert!(!here.path().join("key.pem").exists());

    let elsewhere = directory();
    let (code, _, said) = run(elsewhere.path(), &["init", "--host", "tunnels.example"]);
    assert!(code == Some(1) && said.contains("--self-signed") && said.contains("tls_terminated_by"), "{said}");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("a directory").count(), 0);
}

#[test]
fn init_takes_no_certificate_that_the_server_could_not_use() {
    let here = directory();
    run(here.path(), &["init", "first", "--self-signed"]);
    run(here.path(), &["init", "second", "--self-signed"]);
    let init = |certificate, key| {
        let args = ["init", "etc", "--host", "tunnels.example", "--certificate", certificate, "--key", key];
        run(here.path(), &args)
    };
    for (certificate, key) in [("nowhere.pem", "first/key.pem"), ("first/cert.pem", "second/key.pem")] {
        let (code, command, said) = init(certificate, key);
        assert_eq!((code, command.as_str()), (Some(78), ""), "{said}");
        assert!(said.contains(".pem"), "{said}");
        assert!(!here.path().join("etc").exists(), "{said}");
    }
    let (code, _, said) = init("first/cert.pem", "first/key.pem");
    assert_eq!(code, Some(0), "{said}");
}
