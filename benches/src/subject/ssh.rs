use std::{env, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::{Far, Running, Stage};
use crate::programs::installed;

/// A server of our own with keys of its own; whoever runs this logs in to themselves.
pub(super) async fn start(stage: &Stage, sshd: &Path, far: Option<Far>) -> anyhow::Result<Running> {
    let (listen, target, mut paths) = (stage.addr()?, stage.addr()?, Vec::new());
    let remote = stage.path_to(listen, far, &mut paths).await?;
    let user = match &stage.user {
        Some(user) => user.name.clone(),
        None => env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_else(|_| "root".to_owned()),
    };
    let (host_key, key) = (stage.file("host-key")?, stage.file("key")?);
    for path in [&host_key, &key] {
        let mut command = Command::new(installed("ssh-keygen")?);
        let made = command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status()?;
        ensure!(made.success(), "ssh-keygen has failed");
        if let Some(user) = &stage.user {
            user.give(path)?;
            user.give(&path.with_extension("pub"))?;
        }
    }
    if rustix::process::geteuid().is_root() && stage.user.is_none() {
        // The system's own service makes it when it starts.
        std::fs::create_dir_all("/run/sshd").context("sshd's directory")?;
    }
    let config = format!(
        "ListenAddress {listen}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nPubkeyAuthentication yes\nPasswordAuthentication no\nAllowTcpForwarding yes\n",
        host_key.display(),
        key.display()
    );
    let config = stage.write("sshd.conf", &config)?;
    let mut server = stage.start("sshd", Command::new(sshd).args(["-D", "-e", "-f"]).arg(config))?;
    server.says("Server listening on").await?;

    let mut agent = Command::new(installed("ssh")?);
    agent.args(["-N", "-F", "none", "-i"]).arg(&key).args(["-p", &remote.port().to_string(), "-l", &user]);
    for option in
        ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes", "BatchMode=yes"]
    {
        agent.args(["-o", option]);
    }
    agent.arg("-R").arg(format!("{target}:{}", stage.origin)).arg(remote.ip().to_string());
    let agent = stage.start("ssh", &mut agent)?;
    Ok(Running::new(target, server, agent, paths))
}
