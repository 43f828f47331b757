use std::{env, ffi::OsStr, process};

use clap::{
    Arg, Command, CommandFactory, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tunnel_agent::Target;

use super::{args::Args, failure::BAD_CONFIG, screen::Screen};

/// What was typed and what the environment adds to it. Wrong usage ends the process with 2, a bad value in the environment
/// with 78: who calls the command is told apart from who configured the machine.
pub(crate) fn parse() -> Args {
    // Empty is as good as unset: that is how a script leaves one out.
    let command = without_environment(Args::command(), &|name| env::var_os(name).is_some_and(|value| value.is_empty()));
    let error = match parse_by(command.clone()) {
        Ok(args) => return args,
        Err(error) => error,
    };
    // If it is fine without the environment, the environment is at fault.
    if error.use_stderr() && parse_by(without_environment(Args::command(), &|_| true)).is_ok() {
        let place = variable_of(&command, &error).map_or("the environment".to_owned(), |name| format!("{name} there"));
        let _ = error.print();
        Screen::stderr().say(&format!("tunnel: this comes from the environment; change or unset {place}"));
        process::exit(BAD_CONFIG.into());
    }
    if let Some(target) = bare_target(&error) {
        let _ = error.print();
        Screen::stderr().say(&format!("\nTo make a local service public: tunnel tcp {target}"));
        process::exit(error.exit_code());
    }
    error.exit()
}

fn parse_by(command: Command) -> Result<Args, clap::Error> {
    Args::from_arg_matches(&command.try_get_matches()?)
}

/// The same command, looking at fewer variables.
fn without_environment(command: Command, is_out: &dyn Fn(&OsStr) -> bool) -> Command {
    let forget = |arg: Arg| match arg.get_env() {
        Some(name) if is_out(name) => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(forget).mut_subcommands(|command| without_environment(command, is_out))
}

/// The variable that the refused argument takes its value from.
fn variable_of(command: &Command, error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(refused)) = error.get(ContextKind::InvalidArg) else { return None };
    let args = command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments));
    let name = args.filter(|arg| arg.to_string() == *refused).find_map(Arg::get_env)?;
    Some(name.to_string_lossy().into_owned())
}

/// `tunnel 3000` is what one tries first.
fn bare_target(error: &clap::Error) -> Option<Target> {
    match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => word.parse().ok(),
        _ => None,
    }
}
