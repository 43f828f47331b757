use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{args::Args, failure::Failure, stdout};

/// `tunnel completions`.
pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), "tunnel", &mut script);
    stdout::print(&String::from_utf8_lossy(&script)).map(drop)
}
