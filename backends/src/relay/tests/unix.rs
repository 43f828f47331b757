//! A relay whose agent's end is a Unix socket: what the kernel lets it tell.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{PATIENT, limited};
use crate::relay::{Pace, Progress, RelayEnd, Side, relay};

/// A client on TCP and a service on a Unix socket.
async fn relayed() -> (TcpStream, UnixStream, JoinHandle<RelayEnd>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
    let (near_client, _) = listener.accept().await.expect("the connection");
    let (service, near_service) = UnixStream::pair().expect("a pair");
    let end = tokio::spawn(async move {
        relay(near_client, near_service, &Progress::default(), &Pace::default(), &PATIENT, &CancellationToken::new())
            .await
    });
    (client, service, end)
}

#[test]
fn each_direction_ends_on_its_own() {
    limited(async {
        let (mut client, mut service, end) = relayed().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        service.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");

        service.write_all(b"answer").await.unwrap();
        drop(service);

        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"answer");
        assert_eq!(end.await.unwrap(), RelayEnd::Finished);
    });
}

#[test]
fn a_service_that_closes_with_something_unread_has_aborted() {
    limited(async {
        let (mut client, mut service, end) = relayed().await;
        client.write_all(b"question").await.unwrap();
        service.read_exact(&mut [0]).await.unwrap();
        service.write_all(b"half an ans").await.unwrap();
        drop(service);

        let mut heard = Vec::new();
        let error = client.read_to_end(&mut heard).await.map_err(|error| error.kind());
        assert_eq!((error, &heard[..]), (Err(ErrorKind::ConnectionReset), &b"half an ans"[..]));
        assert_eq!(end.await.unwrap(), RelayEnd::Aborted(Side::Agent));
    });
}

/// The limit that the documentation admits.
#[test]
fn a_client_that_aborts_is_an_end_to_the_service() {
    limited(async {
        let (client, mut service, end) = relayed().await;
        client.set_zero_linger().unwrap();
        drop(client);

        assert_eq!(service.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(end.await.unwrap(), RelayEnd::Aborted(Side::Client));
        let error = service.write_all(b"answer").await.map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::BrokenPipe));
    });
}
