//! The relay between sockets on loopback, from the agent to the client: as it is, by splice where there is such a thing, and by copy,
//! as it is between streams that are no sockets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use criterion::{Criterion, Throughput};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;
use tunnel_backends::relay::{Duplex, Pace, Progress, RelayTimes, relay};

pub(crate) fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    group.bench_function("sockets", |bencher| bencher.to_async(&runtime).iter(|| carry(|socket| socket)));
    group.bench_function("streams", |bencher| bencher.to_async(&runtime).iter(|| carry(Opaque)));
    group.finish();
}

async fn carry<D: Duplex + 'static>(end: fn(TcpStream) -> D) {
    let ((mut client, near), (far, mut origin)) = (pair().await, pair().await);
    let relaying = tokio::spawn(async move {
        let (progress, pace, times) = (Progress::default(), Pace::default(), RelayTimes::default());
        relay(end(near), end(far), &progress, &pace, &times, &CancellationToken::new()).await
    });
    let sending = tokio::spawn(async move {
        let chunk = vec![0; CHUNK];
        for _ in 0..BYTES / CHUNK {
            origin.write_all(&chunk).await.expect("a reader");
        }
    });
    client.shutdown().await.expect("a connection");
    let (mut buffer, mut heard) = (vec![0; CHUNK], 0);
    while let read @ 1.. = client.read(&mut buffer).await.expect("bytes") {
        heard += read;
    }
    assert_eq!(heard, BYTES);
    sending.await.expect("no panic");
    relaying.await.expect("no panic");
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (near.expect("a connection"), far.expect("a connection").0)
}

/// A stream of which nobody knows that it is a socket.
struct Opaque(TcpStream);

impl Duplex for Opaque {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Duplex::poll_readable(&mut self.0, cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_sent(cx)
    }

    fn abort_on_drop(&mut self) {
        self.0.abort_on_drop();
    }

    fn finish_on_drop(&mut self) {
        self.0.finish_on_drop();
    }
}

impl AsyncRead for Opaque {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Opaque {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

const BYTES: usize = 64 << 20;
const CHUNK: usize = 256 << 10;
