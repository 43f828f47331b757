//! What `/metrics` shows, read as a scraper does.

use std::{collections::BTreeMap, net::SocketAddr};

use tunnel_server::Running;

use crate::client::get;

/// One scrape: each series and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape(BTreeMap<String, f64>);

/// Asks a server.
///
/// # Panics
/// If it does not answer with metrics.
pub async fn scrape(server: &Running) -> Scrape {
    let (status, text) = get(admin(server), "/metrics").await.expect("an answer");
    assert_eq!(status, 200, "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let values = series.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    Scrape(values.collect())
}

/// Where it answers.
///
/// # Panics
/// If it does not.
pub fn admin(server: &Running) -> SocketAddr {
    server.admin_addr().expect("an admin listener")
}

impl Scrape {
    /// The value of a series, by its name with its labels.
    ///
    /// # Panics
    /// If there is none.
    pub fn value(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.0))
    }

    /// The names of all series, with their labels.
    pub fn series(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}
