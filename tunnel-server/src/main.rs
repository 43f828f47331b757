//! `tunnel-server`: see `--help`.

mod cli;

use std::{io::IsTerminal, path::Path, process::ExitCode};

use clap::Parser;
use cli::{
    args::{Args, Command, LogFormat, Run},
    init, token,
};
use sd_notify::NotifyState;
use tracing_subscriber::EnvFilter;
use tunnel_backends::process::{self, ReloadSignals, StopSignals};
use tunnel_server::{Config, ConfigError, Running, Server, StartError, auth::edit::EditError, panics};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.command {
        Some(Command::Check { file }) => check(&file),
        Some(Command::Init(init)) => init::run(&init),
        Some(Command::Token(token)) => token::run(&token),
        None => {
            log(args.run.log_format);
            panics::log_them();
            process::raise_descriptor_limit();
            run(args.run).await
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel-server: {error:#}");
            exit_code(&error)
        }
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    Config::from_file(file)?.check_files()?;
    println!("{}: fine", file.display());
    Ok(())
}

async fn run(args: Run) -> anyhow::Result<()> {
    let (mut stops, mut reloads) = (StopSignals::catch()?, ReloadSignals::catch()?);
    let server = Server::start(config(&args)?).await?;
    greet(&server);
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
        Some(file) => Config::from_file(file)?,
        None => Config::default(),
    };
    if let Some(listen) = &args.listen {
        config.listen = listen.resolve()?;
    }
    if let Some(admin) = args.admin {
        config.admin.listen = admin;
    }
    config.insecure |= args.insecure;
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

fn greet(server: &Running) {
    let url = server.url();
    eprintln!("tunnel-server listens on {}", server.addr());
    let (token, header) = match server.wants_credentials() {
        true => (" --token-file FILE", "-H \"authorization: Bearer $(cat FILE)\" "),
        false => ("", ""),
    };
    eprintln!("  try   tunnel tcp 127.0.0.1:3000 --server {url}{token}");
    let plain = url.strip_prefix("http://");
    let (flag, host) = (if plain.is_some() { "-plaintext " } else { "" }, plain.unwrap_or(&url));
    let host = host.trim_start_matches("https://");
    eprintln!("  or    grpcurl {flag}{header}-d '{{}}' {host} tunnel.v1.Tunnel/OpenTunnel");
    if let Some(admin) = server.admin_addr() {
        eprintln!("  see   http://{admin}/metrics");
    }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
        }
        // Fields are keys of the line itself: nobody has to know what an event is.
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_bad_config = matches!(error.downcast_ref(), Some(StartError::Config(_) | StartError::NoDefault(_)))
        || matches!(error.downcast_ref(), Some(EditError::File(_)))
        || error.is::<ConfigError>();
    if is_bad_config { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE }
}

/// sysexits.h: EX_CONFIG.
const BAD_CONFIG: u8 = 78;
