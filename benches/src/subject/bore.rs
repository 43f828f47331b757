use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use tokio::time::sleep;

use super::{Far, Running, Stage};

/// Its control port is the same always, so each server gets an address of its own.
pub(super) async fn start(stage: &Stage, program: &Path, far: Option<Far>) -> anyhow::Result<Running> {
    let (host, port, mut paths) = (stage.host(), stage.port()?, Vec::new());
    let control = SocketAddr::new(host, CONTROL_PORT);
    let remote = stage.path_to(control, far, &mut paths).await?.ip().to_string();
    let mut server = Command::new(program);
    let mut server = stage.start("bore-server", server.args(["server", "--bind-addr", &host.to_string()]))?;
    // Its client does not try twice.
    while TcpListener::bind(control).is_ok() {
        server.check()?;
        sleep(Duration::from_millis(10)).await;
    }
    let mut agent = Command::new(program);
    let (local, port_text) = (stage.origin.port().to_string(), port.to_string());
    agent.args(["local", &local, "--local-host", "127.0.0.1", "--to", &remote, "--port", &port_text]);
    let agent = stage.start("bore-local", &mut agent)?;
    Ok(Running::new((host, port).into(), server, agent, paths))
}

const CONTROL_PORT: u16 = 7835;
