//! A backend of one's own in two methods, served over gRPC by the library: `cargo run --example custom_backend`.
//!
//! It hands out entries of a fixed list, as somebody would who has ports forwarded by hand on a firewall. The same type
//! could go into a `Router` beside the built-in backends, or be wrapped by another backend.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tunnel_api::{
    Caller, Carry, OpenTunnel, OpenedTunnel, PublicAddress, TunnelBackend, TunnelError, TunnelUri,
    rpc::{RemoteBackend, TunnelService},
};

/// Forwarded ports: where the agent dials, and where its clients connect.
struct ForwardedPorts {
    free: Mutex<Vec<(TunnelUri, PublicAddress)>>,
    given: Mutex<HashMap<TunnelUri, PublicAddress>>,
}

#[async_trait]
impl TunnelBackend for ForwardedPorts {
    async fn open_tunnel(&self, caller: &Caller, request: OpenTunnel) -> Result<OpenedTunnel, TunnelError> {
        // What we cannot honour we refuse, instead of ignoring it.
        if request.name.is_some() {
            return Err(TunnelError::invalid("name", "tunnels have no names here; leave it empty"));
        }
        let Some((uri, address)) = self.free.lock().expect("no panics").pop() else {
            return Err(TunnelError::LimitReached { limit: "all ports are given out".into(), retry_after: None });
        };
        println!("{} gets {address}", caller.owner);
        self.given.lock().expect("no panics").insert(uri.clone(), address.clone());
        let dial_by = SystemTime::now() + Duration::from_secs(3600);
        let id = format!("port-{}", address.port()).parse().expect("letters, digits and a dash");
        let (dial_from, client_allow, client_deny) = (Vec::new(), Vec::new(), Vec::new());
        let carry = Carry::Connections;
        Ok(OpenedTunnel { id, uri, address, dial_by, dial_from, connections: 1, client_allow, client_deny, carry })
    }

    async fn get_tunnel_address(&self, _caller: &Caller, uri: &TunnelUri) -> Result<PublicAddress, TunnelError> {
        self.given.lock().expect("no panics").get(uri).cloned().ok_or(TunnelError::NotFound)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let free = vec![("tcp://dial.example:9001".parse()?, "tcp://public.example:443".parse()?)];
    let backend = ForwardedPorts { free: Mutex::new(free), given: Mutex::default() };

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let service = TunnelService::new(backend).into_server();
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    // Any gRPC client could be the caller; ours is a backend again.
    let remote = RemoteBackend::connect(&url).await?;
    let caller = Caller::embedded();
    let opened = remote.open_tunnel(&caller, OpenTunnel::default()).await?;
    println!("dial {}, advertise {}", opened.uri.expose(), remote.get_tunnel_address(&caller, &opened.uri).await?);
    let refused = remote.open_tunnel(&caller, OpenTunnel::default()).await.expect_err("the list is used up");
    println!("once more: {refused}");
    Ok(())
}
