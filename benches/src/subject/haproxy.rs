use std::{net::SocketAddr, path::Path, process::Command};

use super::{Far, Running, Stage};
use crate::process::Process;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Splice {
    Yes,
    No,
}

/// Two in a row, as a server and its agent are. It sets TCP_NODELAY by itself.
pub(super) async fn start(stage: &Stage, program: &Path, splice: Splice, far: Option<Far>) -> anyhow::Result<Running> {
    let (target, middle, mut paths) = (stage.addr()?, stage.addr()?, Vec::new());
    let next = stage.path_to(middle, far, &mut paths).await?;
    let agent = one(stage, program, splice, middle, stage.origin)?;
    let server = one(stage, program, splice, target, next)?;
    Ok(Running::new(target, server, agent, paths))
}

fn one(stage: &Stage, program: &Path, splice: Splice, here: SocketAddr, next: SocketAddr) -> anyhow::Result<Process> {
    let splice = match splice {
        Splice::Yes => "  option splice-request\n  option splice-response\n",
        Splice::No => "",
    };
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n{splice}\
         listen bench\n  bind {here}\n  server next {next}\n"
    );
    let config = stage.write("haproxy.cfg", &config)?;
    stage.start("haproxy", Command::new(program).arg("-db").arg("-f").arg(config))
}
