//! `compare`: see `--help`, and `docs/performance.md`.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tunnel_backends::process::{StopSignals, raise_descriptor_limit};
use tunnel_benches::{
    goals,
    machine::{congestion, user::User},
    measure::{Measure, Scale},
    programs::Programs,
    results::{Machine, Results},
    rounds::Plan,
    subject::{Stage, Subject},
    table::table,
};

/// Measures us beside what people would use otherwise, on this machine, in one run.
///
/// Ours are built, rathole and bore fetched from crates.io and built; haproxy, nginx and OpenSSH take part where they are installed.
#[derive(Debug, Parser)]
#[command(after_help = NOTES)]
struct Args {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long each reading takes
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// One round of a second each, to see whether everything works
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// These subjects and no others
    #[arg(long, value_name = "SUBJECTS", value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// These measures and no others
    #[arg(long = "measure", value_name = "MEASURES", value_enum, value_delimiter = ',')]
    measures: Vec<Measure>,
    /// Show the goals, too, and which of them are reached
    #[arg(long)]
    goals: bool,
    /// Write what was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing; show what an earlier run has written to this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rounds", "seconds", "quick", "only", "measures", "json"])]
    from: Option<PathBuf>,
    /// Use this congestion control, in a network namespace of the run's own (needs root, unshare and ip; nothing else on this machine
    /// changes)
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Run the subjects as this user (needs root)
    #[arg(long, value_name = "USER")]
    as_user: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.from {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        show(args, &serde_json::from_str(&text).context("that was not written by --json")?);
        return Ok(ExitCode::SUCCESS);
    }
    // Whatever runs by then ends with what it is held by.
    let mut signals = StopSignals::catch()?;
    tokio::select! {
        done = measure(args) => done.map(|()| ExitCode::SUCCESS),
        () = signals.next() => {
            eprintln!("stopped");
            Ok(ExitCode::from(130))
        }
    }
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let user = args.as_user.as_deref().map(User::named).transpose()?;
    let programs = Programs::beside_us()?;
    let profile = if cfg!(debug_assertions) { &[][..] } else { &["--release"][..] };
    programs.build(profile).await?;
    programs.build_origin(profile).await?;
    let (subjects, left_out) = prepare(args, &programs).await;
    // What is fetched needs the network, of which there is none where this leads.
    if let Some(control) = &args.congestion {
        congestion::enter(control)?;
    }

    let as_root = user.is_none() && rustix::process::geteuid().is_root();
    let mut results = Results { machine: Machine::here(as_root), left_out, ..Results::default() };
    warn(&results.machine);
    let stage = Stage::set(programs, user).await?;
    let time = Duration::from_secs_f64(if args.quick { 1.0 } else { args.seconds });
    let rounds = if args.quick { 1 } else { usize::from(args.rounds) };
    let measures = if args.measures.is_empty() { Measure::ALL.to_vec() } else { args.measures.clone() };
    let plan = Plan { subjects, measures, scale: Scale::full(time), rounds };
    plan.carry_out(&stage, &mut results).await;

    show(args, &results);
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&results).context("the results")?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Those that take part with their programs, and why the others do not.
async fn prepare(
    args: &Args,
    programs: &Programs,
) -> (Vec<(Subject, PathBuf)>, std::collections::BTreeMap<String, String>) {
    let (mut subjects, mut left_out) = (Vec::new(), std::collections::BTreeMap::new());
    for &subject in Subject::ALL.iter().filter(|subject| args.only.is_empty() || args.only.contains(subject)) {
        match subject.prepare(programs).await {
            Ok(program) => subjects.push((subject, program)),
            Err(error) => {
                eprintln!("{subject} is left out: {error:#}");
                left_out.insert(subject.to_string(), format!("{error:#}"));
            }
        }
    }
    (subjects, left_out)
}

fn warn(machine: &Machine) {
    eprintln!("congestion control: {}", machine.congestion_control);
    if let Some(advice) = congestion::advice() {
        eprintln!("{advice}");
    }
    if machine.subjects_run_as_root {
        eprintln!("NOTE: the subjects run as root, who has larger limits than users have; see --as-user");
    }
}

fn show(args: &Args, results: &Results) {
    let machine = &results.machine;
    println!(
        "{} cores, {}, congestion control {}, subjects run as {}",
        machine.cores,
        machine.kernel,
        machine.congestion_control,
        if machine.subjects_run_as_root { "root" } else { "an ordinary user" }
    );
    print!("{}", table(results));
    if args.goals {
        print!("{}", goals::report(results));
    }
}

fn seconds(text: &str) -> Result<f64, &'static str> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or("write a number of seconds, such as 3 or 0.5")
}

const NOTES: &str = "\
Examples:
  cargo run --release -p tunnel-benches --bin compare                      everything; takes a while
  cargo run --release -p tunnel-benches --bin compare -- --quick           does everything work?
  … -- --only tcp,rathole --measure down,calls --rounds 3
  … -- --goals --json results.json                                         and again later:
  … -- --goals --from results.json

docs/performance.md says what is measured, and how to read it.";
