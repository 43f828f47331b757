//! `tunnel`: see `--help`.

mod cli;

use std::process::ExitCode;

use cli::{
    args::{Args, Command},
    close, completions, environment,
    failure::Failure,
    http, list, log,
    screen::Screen,
    tcp, watch,
};
use tunnel_backends::process;

#[tokio::main]
async fn main() -> ExitCode {
    let args = environment::parse();
    let screen = Screen::stderr().quiet(args.loudness.quiet);
    log::start(&screen, args.loudness);
    process::raise_descriptor_limit();
    // As a task, on a thread that works anyway: the main one would have to be woken for each client.
    let end = match tokio::spawn(run(args, screen.clone())).await {
        Ok(end) => end,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            screen.say(&format!("tunnel: {failure}"));
            failure.exit_code()
        }
    }
}

async fn run(args: Args, screen: Screen) -> Result<(), Failure> {
    let (server, screen) = (&args.server, &screen);
    match args.command {
        Command::Http(args_of_it) => http::run(&args_of_it, server, screen).await,
        Command::Tls(args_of_it) => tcp::run_tls(&args_of_it, server, screen).await,
        Command::Tcp(args_of_it) => tcp::run(&args_of_it, server, screen).await,
        Command::List(args_of_it) => list::run(&args_of_it, server, screen).await,
        Command::Watch(args_of_it) => watch::run(&args_of_it, server, screen).await,
        Command::Close(args_of_it) => close::run(&args_of_it, server, screen).await,
        Command::Completions { shell } => completions::run(shell),
    }
}
