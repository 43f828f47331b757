use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::bail;

use super::{Far, Running, Stage};
use crate::{process::Process, programs::installed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Http,
}

/// Two in a row, as a server and its agent are.
pub(super) async fn start(stage: &Stage, program: &Path, kind: Kind, far: Option<Far>) -> anyhow::Result<Running> {
    let (target, middle, mut paths) = (stage.addr()?, stage.addr()?, Vec::new());
    let next = stage.path_to(middle, far, &mut paths).await?;
    let agent = one(stage, program, kind, middle, stage.origin)?;
    let server = one(stage, program, kind, target, next)?;
    Ok(Running::new(target, server, agent, paths))
}

fn one(stage: &Stage, program: &Path, kind: Kind, here: SocketAddr, next: SocketAddr) -> anyhow::Result<Process> {
    let directory = stage.file("nginx")?;
    std::fs::create_dir(&directory)?;
    if let Some(user) = &stage.user {
        user.give(&directory)?;
    }
    let at = directory.display();
    let mut config = String::new();
    if kind == Kind::Stream
        && let Some(module) = stream_module()
    {
        config += &format!("load_module {module};\n");
    }
    if stage.user.is_none() && rustix::process::geteuid().is_root() {
        config += "user root root;\n";
    }
    config += &format!(
        "daemon off;\npid {at}/pid;\nerror_log {at}/error.log;\nworker_processes auto;\nevents {{ worker_connections 8192; }}\n"
    );
    config += &match kind {
        Kind::Stream => {
            format!("stream {{ server {{ listen {here}; proxy_pass {next}; proxy_timeout 1h; tcp_nodelay on; }} }}\n")
        }
        Kind::Http => {
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
                .concat();
            format!(
                "http {{\naccess_log {at}/access.log;\n{temporary}keepalive_requests 1000000000;\n\
                 upstream next {{ server {next}; keepalive 128; keepalive_requests 1000000000; }}\n\
                 server {{ listen {here}; location / {{ proxy_pass http://next; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}\n}}\n"
            )
        }
    };
    let config = stage.write("nginx.conf", &config)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(stage.directory()).arg("-e").arg(directory.join("start.log")).arg("-c").arg(config);
    stage.start("nginx", &mut command)
}

/// It is a part of nginx, a module of its own, or not there.
pub(super) fn has_streams() -> anyhow::Result<()> {
    let said = Command::new(installed("nginx")?).arg("-V").output()?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let is_inside = said.split_whitespace().any(|word| word == "--with-stream");
    if !is_inside && stream_module().is_none() {
        bail!("nginx is installed without its stream module (Debian: libnginx-mod-stream)");
    }
    Ok(())
}

fn stream_module() -> Option<&'static str> {
    let places = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
    places.into_iter().find(|place| Path::new(place).exists())
}
