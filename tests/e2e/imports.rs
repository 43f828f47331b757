//! Imports go one way (ARCHITECTURE.md): what touches users' bytes knows nothing of the RPC, the agent nothing of the
//! server, and fronts and carriers nothing of each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources below a directory, or the one file, with tests left out.
fn sources(place: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut places = vec![root().join(place)];
    while let Some(path) = places.pop() {
        if path.is_dir() {
            places.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            let text = fs::read_to_string(&path).expect("a file");
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            found.push((path.display().to_string(), text));
        }
    }
    assert!(!found.is_empty(), "no sources in {place}");
    found
}

fn is_test(path: &Path) -> bool {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    inside.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// No line of code in these places, comments aside, has any of these words in it.
fn free_of(places: &[&str], words: &[&str]) {
    for (path, text) in places.iter().flat_map(|place| sources(place)) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in words {
                assert!(!has_word(line, word), "{path}:{} has {word}: {line}", number + 1);
            }
        }
    }
}

/// As a whole word, so that `tonic` is not found in `monotonic`.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

/// The crates that a package of ours depends on outside its tests.
fn dependencies(package: &str) -> Vec<String> {
    let path = root().join(package).join("Cargo.toml");
    let text = fs::read_to_string(&path).expect("a manifest");
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            in_dependencies = line == "[dependencies]" || line == "[build-dependencies]";
        } else if in_dependencies && let Some(name) = line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty())
        {
            found.push(name.to_owned());
        }
    }
    assert!(found.len() > 2, "{package} has too few dependencies: {found:?}");
    found
}

fn depends_on_none_of(package: &str, others: &[&str]) {
    let dependencies = dependencies(package);
    for other in others {
        assert!(!dependencies.iter().any(|name| name == other), "{package} depends on {other}");
    }
}

#[test]
fn the_data_plane_knows_nothing_of_the_rpc_or_of_the_server() {
    depends_on_none_of("backends", &["tonic", "prost", "prost-types", "axum", "tunnel-server", "tunnel-agent"]);
    free_of(&["backends/src"], &["tonic", "prost", "rpc", "axum", "tunnel_server", "tunnel_agent"]);
}

#[test]
fn the_contract_knows_none_of_its_users() {
    let ours = ["tunnel-backends", "tunnel-server", "tunnel-agent"];
    depends_on_none_of("tunnel-api", &ours);
    // tonic generates a module named `tunnel_server`, so that word is not looked for.
    free_of(&["tunnel-api/src"], &["tunnel_backends", "tunnel_agent"]);
}

#[test]
fn the_agent_knows_nothing_of_the_server() {
    depends_on_none_of("tunnel-agent", &["tunnel-server"]);
    free_of(&["tunnel-agent/src"], &["tunnel_server"]);
    depends_on_none_of("tunnel-server", &["tunnel-agent"]);
    free_of(&["tunnel-server/src"], &["tunnel_agent"]);
}

#[test]
fn fronts_and_carriers_know_nothing_of_each_other() {
    free_of(&["backends/src/front", "backends/src/front.rs"], &["carrier"]);
    free_of(&["backends/src/carrier", "backends/src/carrier.rs"], &["front"]);
    free_of(&["backends/src/web", "backends/src/web.rs"], &["carrier", "front"]);
}

#[test]
fn the_relay_knows_nothing_of_ours() {
    let others = ["tunnel_api", "crate::"];
    // It knows as much of a tunnel as the standard library does.
    let as_good_as_std = "use crate::seldom::unless_cancelled;";
    let own = sources("backends/src/relay").into_iter().chain(sources("backends/src/relay.rs"));
    for (path, text) in own {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//") && *line != as_good_as_std);
        for line in code {
            for other in others {
                assert!(!line.contains(other), "{path} has {other}: {line}");
            }
        }
    }
}

#[test]
fn one_file_of_the_server_names_the_backends() {
    for (path, text) in sources("tunnel-server/src").iter().filter(|(path, _)| !path.ends_with("assemble.rs")) {
        let names = text.contains("tunnel_backends::tcp") || text.contains("tcp::TcpConfig");
        assert!(!names, "{path} names a backend");
    }
    let assemble = sources("tunnel-server/src/assemble.rs");
    assert!(assemble[0].1.contains("tcp::TcpConfig"), "assemble.rs names no backend: what does this test look for?");
}

#[test]
fn words_are_found_where_they_are() {
    assert!(has_word("use tonic::Status;", "tonic") && has_word("a::front::Front", "front"));
    assert!(!has_word("monotonic", "tonic") && !has_word("in_front", "front") && !has_word("fronts", "front"));
}
