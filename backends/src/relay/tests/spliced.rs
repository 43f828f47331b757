//! What is moved within the kernel is told from what is copied by nothing but its speed.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{PATIENT, far_ends::connection, limited_in_parallel};
use crate::{
    relay::{Pace, Progress, RelayEnd, Side, relay},
    sockets::reset,
};

/// One end of a relay, the other one, and the relay's own end.
async fn relayed() -> (TcpStream, TcpStream, tokio::task::JoinHandle<RelayEnd>) {
    let ((client, near_client), (agent, near_agent)) = (connection().await, connection().await);
    let end = tokio::spawn(async move {
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        relay(near_client, near_agent, &progress, &Pace::default(), &PATIENT, &cancel).await
    });
    (client, agent, end)
}

/// A splice that has moved something before it fails says so, and keeps the failure to itself.
#[test]
fn a_client_that_breaks_off_a_download_has_aborted() {
    limited_in_parallel(async {
        for round in 0..ROUNDS {
            let (mut client, agent, end) = relayed().await;
            let (mut hears, mut says) = agent.into_split();
            let saying = tokio::spawn(async move {
                let piece = vec![7; 256 * 1024];
                loop {
                    if let Err(error) = says.write_all(&piece).await {
                        return error.kind();
                    }
                }
            });
            client.write_all(b"half a requ").await.expect("a relay");
            let mut heard = vec![0; 64 * 1024];
            for _ in 0..32 + round % 16 {
                client.read_exact(&mut heard).await.expect("a download");
            }
            reset(client);
            let mut request = Vec::new();
            let heard = hears.read_to_end(&mut request).await.map_err(|error| error.kind());
            // Whichever of the two comes first is told, and the other one sees an end then.
            let told = (heard, saying.await.expect("no panic"));
            let is_abort = matches!(told, (Err(ErrorKind::ConnectionReset), _) | (_, ErrorKind::ConnectionReset));
            assert!(is_abort, "{told:?} in round {round}");
            assert_eq!(end.await.expect("no panic"), RelayEnd::Aborted(Side::Client));
        }
    });
}

const ROUNDS: usize = 200;
