use std::{path::Path, process::Command};

use super::{Far, Running, Stage};

pub(super) async fn start(stage: &Stage, program: &Path, far: Option<Far>) -> anyhow::Result<Running> {
    let (control, target, origin) = (stage.addr()?, stage.addr()?, stage.origin);
    let mut paths = Vec::new();
    let remote = stage.path_to(control, far, &mut paths).await?;
    let server = stage.write(
        "rathole-server.toml",
        &format!(
            "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n\
             [server.transport]\ntype = \"tcp\"\n[server.transport.tcp]\nnodelay = true\n\
             [server.services.bench]\ntype = \"tcp\"\nbind_addr = \"{target}\"\nnodelay = true\n"
        ),
    )?;
    let client = stage.write(
        "rathole-client.toml",
        &format!(
            "[client]\nremote_addr = \"{remote}\"\ndefault_token = \"bench\"\n\
             [client.transport]\ntype = \"tcp\"\n[client.transport.tcp]\nnodelay = true\n\
             [client.services.bench]\ntype = \"tcp\"\nlocal_addr = \"{origin}\"\nnodelay = true\n"
        ),
    )?;
    let server = stage.start("rathole-server", Command::new(program).arg("--server").arg(server))?;
    let agent = stage.start("rathole-client", Command::new(program).arg("--client").arg(client))?;
    Ok(Running::new(target, server, agent, paths))
}
