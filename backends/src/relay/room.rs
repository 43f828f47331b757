//! How much of a stream waits in the kernel when much is moving. Left alone, that is megabytes at each hop, of each stream.

use socket2::SockRef;
use tokio::net::TcpStream;

/// What one direction's sockets have been told.
#[derive(Debug, Default)]
pub(super) struct Limits {
    unsent: bool,
    unread: bool,
}

impl Limits {
    /// Whether there is nothing left to tell them.
    pub(super) fn are_set(&self) -> bool {
        self.unsent && self.unread
    }

    /// Much is moving from `source` to `sink`; and elsewhere, too, if there are `others`.
    pub(super) fn set(&mut self, source: Option<&TcpStream>, sink: Option<&TcpStream>, others: bool) {
        if !std::mem::replace(&mut self.unsent, true)
            && let Some(sink) = sink
        {
            limit_unsent(sink);
        }
        if others
            && !std::mem::replace(&mut self.unread, true)
            && let Some(source) = source
        {
            limit_unread(source);
        }
    }
}

/// What comes from a program on this host waits there, and not in the kernel. Left alone the kernel makes room for tens of megabytes, as for
/// a path of 100 ms, where the peer is a microsecond away: what is copied has left the processor's caches by then, and whoever else is on
/// their way waits while it is moved on. (A lone stream has nobody who waits, and is faster with more.)
fn limit_unread(socket: &TcpStream) {
    if socket.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback()) {
        // Where the kernel will not, it is merely slower.
        let _ = SockRef::from(socket).set_recv_buffer_size(UNREAD);
    }
}

/// What does not fit on the path waits where it comes from, and not in the kernel's buffer.
fn limit_unsent(socket: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

/// In bytes: twice what the next process takes at once. With less, each waits for the other.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 1024 * 1024;

/// In bytes. What Linux lets everybody have, if nobody has set it otherwise (`net.core.rmem_max`).
const UNREAD: usize = 208 * 1024;

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn room_for_bulk_from_this_host_does_not_grow() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut source = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut sink, _) = listener.accept().await.unwrap();
        Limits::default().set(Some(&sink), None, true);
        let much = 64 * 1024 * 1024;
        let says = tokio::spawn(async move { source.write_all(&vec![0; much]).await });
        let mut heard = vec![0; 128 * 1024];
        while sink.read(&mut heard).await.unwrap() > 0 {}
        says.await.unwrap().unwrap();
        // Linux says twice what it was told.
        let room = SockRef::from(&sink).recv_buffer_size().unwrap();
        assert!(room <= 2 * UNREAD, "{room}");
    }
}
