//! What is said in TLS to whoever does not get any further with it.

use std::io;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::lent::hear_out;

/// Why a connection ends before it is one of TLS (RFC 8446, 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alert {
    HandshakeFailure = 40,
    AccessDenied = 49,
    DecodeError = 50,
    InternalError = 80,
    UnrecognizedName = 112,
}

impl Alert {
    fn record(self) -> [u8; 7] {
        const FATAL: u8 = 2;
        [0x15, 3, 3, 0, 2, FATAL, self as u8]
    }
}

/// Says so and closes. Closing with something unread would take back what was said last, so the peer is heard out. (The caller
/// may bound the time further.)
pub(super) async fn refuse(mut socket: TcpStream, alert: Alert) {
    let _: io::Result<()> = async {
        socket.write_all(&alert.record()).await?;
        socket.shutdown().await
    }
    .await;
    hear_out(&socket).await;
}
