use std::{
    env,
    ffi::{OsStr, OsString},
    process,
};

use clap::{
    Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Id,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use tunnel_agent::Target;

use super::{args::Args, failure::BAD_CONFIG, screen::Screen};

/// What was typed and what the environment adds to it. Wrong usage ends the process with 2, a bad value in the environment
/// with 78: who calls the command is told apart from who configured the machine.
pub(crate) fn parse() -> Args {
    let mut overridden = Vec::new();
    loop {
        // Empty is as good as unset: that is how a script leaves one out.
        let is_out = |name: &OsStr| is_empty(name) || overridden.iter().any(|other| other == name);
        let command = without_environment(Args::command(), &is_out);
        let error = match parse_by(command.clone()) {
            Ok(args) => return args,
            Err(error) => error,
        };
        match blame(&command, &error) {
            Blame::Usage => refuse(&error),
            Blame::Overridden(variable) => overridden.push(variable),
            Blame::Environment(variable) => {
                let _ = error.print();
                let hint = format!("tunnel: that value comes from the environment; change or unset {variable}");
                Screen::stderr().say(&hint);
                process::exit(BAD_CONFIG.into());
            }
        }
    }
}

/// What is wrong.
enum Blame {
    Usage,
    Environment(String),
    /// The option was typed, but at another place than where it was looked for: a global one may stand before its subcommand
    /// or after it, and clap reads the variable where it does not stand.
    Overridden(OsString),
}

/// If it is fine without the environment, the environment is at fault.
fn blame(command: &Command, error: &clap::Error) -> Blame {
    let bare = without_environment(Args::command(), &|_| true).try_get_matches();
    match (bare, option(command, error)) {
        (Ok(typed), Some((option, variable))) if was_typed(&typed, option) => Blame::Overridden(variable),
        (Ok(_), Some((_, variable))) => Blame::Environment(variable.to_string_lossy().into_owned()),
        _ => Blame::Usage,
    }
}

fn was_typed(matches: &ArgMatches, option: &Id) -> bool {
    matches.ids().any(|id| id == option) && matches.value_source(option.as_str()) == Some(ValueSource::CommandLine)
}

fn refuse(error: &clap::Error) -> ! {
    let _ = error.print();
    if let Some(target) = target_without_kind(error, env::args_os()) {
        Screen::stderr()
            .say(&format!("\nTo make a web service public: tunnel http {target} (any other: tunnel tcp {target})"));
    }
    process::exit(error.exit_code());
}

fn is_empty(variable: &OsStr) -> bool {
    env::var_os(variable).is_some_and(|value| value.is_empty())
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

/// The option whose value was refused, and its variable.
fn option<'a>(command: &'a Command, error: &clap::Error) -> Option<(&'a Id, OsString)> {
    let Some(ContextValue::String(refused)) = error.get(ContextKind::InvalidArg) else { return None };
    // Such as `--server <URL>`.
    let long = refused.split_whitespace().next()?.strip_prefix("--")?;
    let mut args = command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments));
    let arg = args.find(|arg| arg.get_long() == Some(long))?;
    Some((arg.get_id(), arg.get_env()?.to_owned()))
}

/// `tunnel 3000` is what one tries first, or `tunnel expose 3000` and `tunnel local 3000`, as it is called elsewhere.
fn target_without_kind(error: &clap::Error, typed: impl Iterator<Item = OsString>) -> Option<String> {
    let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
    else {
        return None;
    };
    let mut word_and_next =
        typed.filter_map(|typed| typed.into_string().ok()).skip_while(|typed| typed != word).take(2);
    word_and_next.find(|typed| typed.parse::<Target>().is_ok())
}
