//! Our server and our agent, as they are started by hand. Their configs say where to listen and nothing else; on a long path also by
//! which address agents come, which is where the path begins.

use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{Far, Running, Stage, Subject};
use crate::programs::Programs;

pub(super) async fn start(subject: Subject, stage: &Stage, far: Option<Far>) -> anyhow::Result<Running> {
    let listen = stage.addr()?;
    let mut config = format!("listen = \"{listen}\"\n");
    let (mut paths, mut rpc) = (Vec::new(), listen);
    if far.is_some() {
        let (host, dial_in) = (stage.host(), stage.port()?);
        rpc = stage.path_from(host, listen, far, &mut paths).await?;
        stage.path_from(host, (listen.ip(), dial_in).into(), far, &mut paths).await?;
        config += &format!("[advertise]\nagents = \"{host}\"\n[ports]\ndial_in = \"{dial_in}-{dial_in}\"\n");
    }
    let config = stage.write("tunnel-server.toml", &config)?;
    let mut server = stage.start("tunnel-server", Command::new(stage.programs.server()).arg("--config").arg(config))?;
    server.says("listens on ").await?;

    let kind = if subject == Subject::Http { "http" } else { "tcp" };
    let url = format!("http://{rpc}");
    let mut agent = Command::new(stage.programs.agent());
    agent.arg(kind).arg(stage.origin.to_string()).args(["--server", &url]);
    agent.args(["--backend", subject.backend().context("one of ours")?]);
    let mut agent = stage.start("tunnel", &mut agent)?;
    let said = agent.says(&format!("{kind}://")).await?;
    let address = said.split([' ', '/']).next().unwrap_or_default().to_owned();
    // A name leads to the one port.
    let target = if subject == Subject::Http { listen } else { address.parse().context("the tunnel's address")? };
    Ok(Running { host: address, rpc: Some(format!("http://{listen}")), ..Running::new(target, server, agent, paths) })
}

/// Whether this build publishes names.
pub(super) async fn has_names(programs: &Programs) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(programs.agent());
    let asked = command.args(["http", "--help"]).output().await.context("the tunnel command")?;
    ensure!(asked.status.success(), "this build of the tunnel command has no `http`");
    Ok(())
}
