//! A server with little: 256 descriptors and 200 MB of memory.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::transport::Channel;
use tunnel_api::rpc::v1::{OpenTunnelRequest, client::TunnelClient};
use tunnel_backends::sockets;
use tunnel_tests::{beside::GoodClient, client::at, limit::within, process::ServerProcess};

use crate::{SERVER, alone};

#[tokio::test]
async fn with_256_descriptors_and_200_mb_a_flood_of_connections_shuts_nobody_out() {
    let _alone = alone().await;
    within(async {
        let place = tempfile::tempdir().expect("a directory");
        let config = place.path().join("config.toml");
        std::fs::write(&config, CONFIG).expect("a file");
        let server = ServerProcess::with_descriptors(SERVER, &config, 256).await;
        let mut good = GoodClient::come(server.addr(), "anybody").await;
        // A tunnel on which clients wait in vain.
        let mut rpc = TunnelClient::<Channel>::connect(server.url()).await.expect("a connection");
        let opened = rpc.open_tunnel(OpenTunnelRequest::default()).await.expect("a tunnel").into_inner();

        let flood = async {
            let mut crowd = Vec::new();
            for number in 0..600 {
                for addr in [server.addr(), at(&opened.address)] {
                    // It may make room for the next one before it knows that it is connected.
                    let Ok(mut socket) = TcpStream::connect(addr).await else { continue };
                    if number % 3 == 0 {
                        let _ = socket.write_all(b"GET / HTTP/1.1\r\nx-more: ").await;
                    }
                    crowd.push(socket);
                }
            }
            sleep(Duration::from_secs(2)).await;
            crowd
        };
        let ((crowd, used), beside) = good.beside(server.watch(flood)).await;
        println!("{beside}{used:?}");
        assert!(beside.p99() < Duration::from_secs(1), "{beside}");
        assert!(used.most_memory < 200_000_000, "{used:?}");

        // And when they are gone, everything is as before.
        crowd.into_iter().for_each(sockets::reset);
        let heals = async {
            while server.descriptors() > 40 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(15), heals).await.expect("descriptors are given back");
        let ((), after) = good.beside(sleep(Duration::from_millis(500))).await;
        assert!(after.p99() < Duration::from_secs(1), "{after}");
    })
    .await;
}

const CONFIG: &str = "listen = '127.0.0.1:0'\n[ports]\npublic = 0\ndial_in = 0\n[admin]\nlisten = 'off'\n[backends.tcp.tcp]\n[backends.mux.mux]\n";
