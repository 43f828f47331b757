//! The benchmark works: every measure gives readings that can be true, of no tunnel at all and of both of our backends. How fast
//! anything is, is no test's business.

use std::{
    env,
    path::{Path, PathBuf},
};

use tunnel_benches::{
    load::ping,
    measure::{Measure, Scale},
    programs::Programs,
    results::Results,
    rounds::Plan,
    subject::{Far, Stage, Subject},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_measure_gives_readings_that_can_be_true() {
    let origin = Path::new(env!("CARGO_BIN_EXE_origin"));
    let built = origin.parent().expect("where cargo puts what it builds");
    let programs = Programs::in_directory(built, origin);
    programs.build(if built.ends_with("release") { &["--release"] } else { &[] }).await.expect("ours");
    let stage = Stage::set(programs, None).await.expect("an origin");
    let subjects = [Subject::Direct, Subject::Tcp, Subject::Mux].map(|subject| (subject, PathBuf::new())).to_vec();
    let plan = Plan { subjects, measures: Measure::ALL.to_vec(), scale: Scale::tiny(), rounds: 1 };

    let mut results = Results::default();
    plan.carry_out(&stage, &mut results).await;

    assert_eq!(results.failures, Vec::<String>::new());
    let names: Vec<_> = results.readings().into_iter().map(|(name, _)| name.to_owned()).collect();
    for subject in [Subject::Direct, Subject::Tcp, Subject::Mux] {
        for name in [
            "down-1",
            "down-8",
            "up-8",
            "ping-p50",
            "ping-1k-p99",
            "pinned-p50",
            "beside-8-p99",
            "calls-4",
            "web",
            "path-8",
        ] {
            let value = results.median(name, subject).unwrap_or_else(|| panic!("no {name} of {subject} in {names:?}"));
            assert!(value.is_finite() && value > 0.0, "{name} of {subject} is {value}");
        }
    }
    for subject in [Subject::Tcp, Subject::Mux] {
        for name in
            ["down-1-cpu", "idle-20-server", "idle-20-agent", "tunnels-20-server", "stalled-server", "stalled-ping"]
        {
            let value = results.median(name, subject).unwrap_or_else(|| panic!("no {name} of {subject} in {names:?}"));
            assert!(value.is_finite(), "{name} of {subject} is {value}");
        }
        let descriptors = results.median("idle-20-server-files", subject).expect("descriptors");
        assert!((0.5..10.0).contains(&descriptors), "{descriptors} descriptors an idle connection of {subject}");
        let fairness = results.median("fairness-8", subject).expect("fairness");
        assert!((0.1..=1.0001).contains(&fairness), "fairness of {subject} is {fairness}");
    }
}

#[tokio::test]
async fn a_long_path_takes_its_time() {
    let origin = Path::new(env!("CARGO_BIN_EXE_origin"));
    let programs = Programs::in_directory(origin.parent().expect("a directory"), origin);
    let stage = Stage::set(programs, None).await.expect("an origin");
    let far = Subject::Direct.start(&stage, Path::new(""), Some(Far::FIFTY_MS)).await.expect("a path");
    let pings = ping(far.target, 1, Scale::tiny().spell, None).await.expect("an echo");
    assert!(pings.p50 >= Far::FIFTY_MS.round_trip, "{pings:?}");
}
