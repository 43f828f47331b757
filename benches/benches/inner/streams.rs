//! A stream of a PTTH session, from the agent's service to a client: server and agent in this process, with all that is between
//! a public port and a dialled session.

use criterion::{Criterion, Throughput};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};
use tunnel_tests::{
    client::at,
    server::{listen_on, server},
};

pub(crate) fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (_server, public) = runtime.block_on(async {
        let server = server().await;
        let mut tunnel = listen_on(&server, "mux").await;
        let public = at(&tunnel.address().to_string());
        tokio::spawn(async move {
            while let Ok(mut stream) = tunnel.accept().await {
                tokio::spawn(async move {
                    let chunk = vec![0; CHUNK];
                    for _ in 0..BYTES / CHUNK {
                        stream.write_all(&chunk).await.expect("a reader");
                    }
                    stream.shutdown().await.expect("a reader");
                });
            }
        });
        (server, public)
    });
    let mut group = criterion.benchmark_group("ptth");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    group.bench_function("stream", |bencher| {
        bencher.to_async(&runtime).iter(|| async move {
            let mut client = TcpStream::connect(public).await.expect("a connection");
            let (mut buffer, mut heard) = (vec![0; CHUNK], 0);
            while let read @ 1.. = client.read(&mut buffer).await.expect("bytes") {
                heard += read;
            }
            assert_eq!(heard, BYTES);
        });
    });
    group.finish();
}

const BYTES: usize = 32 << 20;
const CHUNK: usize = 256 << 10;
