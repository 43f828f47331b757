//! A panic is logged, counted, and takes nothing else down. In a process of its own: what panics are told to is the process's.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracing_subscriber::fmt::MakeWriter;
use tunnel_api::{Caller, OpenTunnel, TunnelBackend};
use tunnel_server::{Config, Server, config::AdminListen, panics};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_panic_is_logged_without_users_data_and_counted_and_the_server_goes_on() {
    let log = Log::default();
    tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).init();
    panics::log_them();
    let server = Server::start(Config {
        admin: tunnel_server::config::Admin {
            listen: AdminListen::At(([127, 0, 0, 1], 0).into()),
            ..Default::default()
        },
        ..Config::local()
    })
    .await
    .unwrap();
    let ticket = "a-users-ticket".to_owned();

    tokio::spawn(async { panic!("a place that is never reached") }).await.unwrap_err();
    tokio::spawn(async move { panic!("no place for {ticket}") }).await.unwrap_err();

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let panics: Vec<_> = logged.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(panics.len(), 2, "{logged}");
    assert!(panics[0].contains("a place that is never reached") && panics[0].contains("tests/panics.rs:"), "{logged}");
    assert!(panics[1].contains("tests/panics.rs:") && !logged.contains("a-users-ticket"), "{logged}");
    let mut socket = TcpStream::connect(server.admin_addr().unwrap()).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    socket.read_to_string(&mut metrics).await.unwrap();
    assert!(metrics.contains("\ntunnel_panics_total 2\n"), "{metrics}");
    server.backend().open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
}
