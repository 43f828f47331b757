use tokio::net::TcpListener;

use crate::rig::run;

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let wrong: [&[&str]; 21] = [
        &[],
        &["udp", "3000"],
        &["tcp"],
        &["tcp", "0"],
        &["tcp", "nowhere"],
        &["tcp", ":3000"],
        &["tcp", "3000", "--port", "0"],
        &["tcp", "3000", "--name", "no name"],
        &["tcp", "3000", "--label", "=value"],
        &["tcp", "3000", "--allow", "192.0.2.0/33"],
        &["tcp", "3000", "--output", "xml"],
        &["tcp", "3000", "-q", "-v"],
        &["http"],
        &["http", "3000", "--host-header", "no host"],
        &["tls", "3000", "--port", "1"],
        &["list", "--server", "ftp://127.0.0.1"],
        &["list", "--server", "nowhere:port"],
        &["watch", "no name"],
        &["completions", "cmd"],
        &["list", "--fingerprint", "sha256:12"],
        &["list", "--client-key", "key.pem"],
    ];
    for args in wrong {
        let ended = run(args).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn what_one_tries_first_is_told_what_to_write() {
    for (args, hint) in [
        (&["3000"][..], "public: tunnel http 3000 (any other: tunnel tcp 3000)\n"),
        (&["expose", "3000"], "public: tunnel http 3000 (any other: tunnel tcp 3000)\n"),
        (&["http", "3000", "--host-header", "no host"], "or `rewrite`"),
        (
            &["-v", "local", "localhost:3000", "--to", "bore.example"],
            "public: tunnel http localhost:3000 (any other: tunnel tcp localhost:3000)\n",
        ),
        (&["tcp", "3000", "--port", "http"], "http is no port; ports are 1 to 65535"),
        (&["tcp", "3000", "--port", "0"], "0 is no port; ports are 1 to 65535"),
        (&["tcp", "localhost"], "HOST:PORT"),
        (&["tcp", "http://localhost:3000"], "only its host and port"),
        (&["tcp", "/run/app.sock"], "unix:/path"),
        (&["list", "--server", "tcp://127.0.0.1:8010"], "write https://HOST:PORT"),
        (&["list", "--fingerprint", "12:34"], "sha256: and the 64 hexadecimal digits"),
        (&["list", "--client-cert", "cert.pem"], "--client-cert and --client-key go together"),
    ] {
        let ended = run(args).await;
        assert!(ended.stderr.contains(hint), "{args:?}: {}", ended.stderr);
    }
    // Where nothing looks like a service, nothing is made up.
    let ended = run(&["lsit", "--server", "3000"]).await;
    assert!(!ended.stderr.contains("public"), "{}", ended.stderr);
}

#[tokio::test]
async fn help_goes_to_stdout_and_names_examples_variables_and_exit_codes() {
    let ended = run(&["--help"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    for word in
        ["tunnel http 3000", "tunnel tcp 22", "TNL_SERVER", "TNL_TOKEN", "NO_COLOR", "RUST_LOG", "69", "77", "78"]
    {
        assert!(ended.stdout.contains(word), "{word}: {}", ended.stdout);
    }
    let ended = run(&["tcp", "--help"]).await;
    for word in
        ["--name", "--port", "--backend", "--proxy-protocol", "--label", "--output", "--server", "unix:", "TNL_PORT"]
    {
        assert!(ended.stdout.contains(word), "{word}: {}", ended.stdout);
    }
}

#[tokio::test]
async fn completions_know_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&["completions", shell]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["tcp", "list", "watch", "close", "completions", "proxy-protocol"] {
            assert!(ended.stdout.contains(word), "{shell} does not complete {word}");
        }
    }
}

#[tokio::test]
async fn what_answers_and_is_no_tunnel_server_ends_with_69() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string();
    let _stranger = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await;
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut Vec::new()).await;
        }
    });
    let ended = run(&["list", "--server", &url]).await;
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains("no proper answer from the tunnel server"), "{}", ended.stderr);
}
