//! `tunnel-server`: see `--help`.

mod cli;

use std::{path::Path, process::ExitCode};

use clap::Parser;
use cli::{
    args::{Args, Command, Run},
    init, token,
};
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tunnel_backends::process::{self, ReloadSignals, StopSignals};
use tunnel_server::{
    Config, ConfigError, Running, Server, StartError,
    auth::edit::EditError,
    log::{self, Log},
    panics,
};

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.command {
        Some(Command::Check { file }) => check(&file),
        Some(Command::Init(init)) => init::run(&init),
        Some(Command::Token(token)) => token::run(&token),
        None => return serve(args.run),
    };
    exit(ended, |text| eprint!("{text}"))
}

/// Everything for stderr goes through the log, which is the last to go: nothing that is said waits for a reader, and nothing
/// that was said last is missing.
fn serve(args: Run) -> ExitCode {
    let log = match log::start(args.log_format) {
        Ok(log) => log,
        Err(error) => return exit(Err(error.into()), |text| eprint!("{text}")),
    };
    panics::log_them();
    process::raise_descriptor_limit();
    let runtime = Runtime::new().map_err(anyhow::Error::from);
    let ended = runtime.and_then(|runtime| runtime.block_on(run(args, &log)));
    exit(ended, |text| log.say(text))
}

fn exit(ended: anyhow::Result<()>, say: impl FnOnce(&str)) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("tunnel-server: {error:#}\n"));
            exit_code(&error)
        }
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    Config::from_file(file)?.check_files()?;
    println!("{}: fine", file.display());
    Ok(())
}

async fn run(args: Run, log: &Log) -> anyhow::Result<()> {
    let (mut stops, mut reloads) = (StopSignals::catch()?, ReloadSignals::catch()?);
    let server = Server::start(config(&args)?).await?;
    log.say(&greeting(&server));
    tell_service_manager(&[NotifyState::Ready, NotifyState::Status(&format!("listens on {}", server.addr()))]);
    loop {
        tokio::select! {
            () = stops.next() => break,
            () = reloads.next() => reload(&server, &args),
        }
    }
    tracing::info!("stopping: running streams may end; a second signal ends them at once");
    tell_service_manager(&[NotifyState::Stopping, NotifyState::Status("lets running streams end")]);
    tokio::select! {
        () = server.shutdown() => {}
        () = stops.next() => {}
    }
    Ok(())
}

fn config(args: &Run) -> Result<Config, StartError> {
    let mut config = match &args.config {
        // What it allows is looked at with this.
        Some(file) => Config::from_file_but(file, |config| config.insecure |= args.insecure)?,
        None => Config { insecure: args.insecure, ..Config::default() },
    };
    if let Some(listen) = &args.listen {
        config.listen = listen.resolve()?;
    }
    if let Some(admin) = args.admin {
        config.admin.listen = admin;
    }
    Ok(config)
}

fn reload(server: &Running, args: &Run) {
    let reloaded = config(args).map_err(anyhow::Error::from).and_then(|config| Ok(server.reload(&config)?));
    match reloaded {
        Ok(waiting) if waiting.is_empty() => tracing::info!("config reloaded"),
        Ok(waiting) => {
            let keys = waiting.join(", ");
            tracing::warn!(keys, "config reloaded, but for keys that wait for a restart");
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "config not reloaded; what was in force before stays so");
        }
    }
}

/// systemd, if it started us and wants to know (`Type=notify`).
fn tell_service_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager how it goes (NOTIFY_SOCKET)");
    }
}

fn greeting(server: &Running) -> String {
    let url = server.url();
    let (token, header) = match server.wants_credentials() {
        true => (" --token-file FILE", "-H \"authorization: Bearer $(cat FILE)\" "),
        false => ("", ""),
    };
    let plain = url.strip_prefix("http://");
    let (flag, host) = (if plain.is_some() { "-plaintext " } else { "" }, plain.unwrap_or(&url));
    let host = host.trim_start_matches("https://");
    let see = server.admin_addr().map(|admin| format!("  see   http://{admin}/metrics\n")).unwrap_or_default();
    format!(
        "tunnel-server listens on {}\n  try   tunnel http 3000 --server {url}{token}\n  or    grpcurl {flag}{header}-d '{{}}' \
         {host} tunnel.v1.Tunnel/OpenTunnel\n{see}",
        server.addr()
    )
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_bad_config = matches!(error.downcast_ref(), Some(StartError::Config(_) | StartError::NoDefault(_)))
        || matches!(error.downcast_ref(), Some(EditError::File(_)))
        || error.is::<ConfigError>();
    if is_bad_config { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE }
}

/// sysexits.h: EX_CONFIG.
const BAD_CONFIG: u8 = 78;
