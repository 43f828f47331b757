use serde::{Deserialize, Deserializer, de};
use tunnel_backends::quotas;

use super::values::Size;

/// Whoever is limited, it is in the same things. (`serde(flatten)` would put them in one place, but cannot refuse unknown
/// keys.)
macro_rules! limits {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Tunnels open.
            #[serde(default)]
            pub tunnels: Option<Cap<usize>>,
            /// Clients being served, and those that wait for an agent.
            #[serde(default)]
            pub streams: Option<Cap<usize>>,
            /// Clients that wait for an agent.
            #[serde(default)]
            pub waiting_clients: Option<Cap<usize>>,
            /// Calls that open a tunnel, a second.
            #[serde(default)]
            pub opens_per_second: Option<Cap<f64>>,
            /// Bytes a second from clients to agents.
            #[serde(default)]
            pub bytes_per_second_to_agents: Option<Cap<Size>>,
            /// Bytes a second from agents to clients.
            #[serde(default)]
            pub bytes_per_second_to_clients: Option<Cap<Size>>,
            $($(#[$doc])* #[serde(default)] pub $key: $type,)*
        }

        impl $name {
            /// What is set here, and what is not set as it is there.
            pub fn over(&self, unset: quotas::Limits) -> quotas::Limits {
                quotas::Limits {
                    tunnels: limit(self.tunnels, unset.tunnels),
                    streams: limit(self.streams, unset.streams),
                    waiting_clients: limit(self.waiting_clients, unset.waiting_clients),
                    opens_per_second: limit(self.opens_per_second, unset.opens_per_second),
                    bytes_per_second_to_agents: rate(self.bytes_per_second_to_agents, unset.bytes_per_second_to_agents),
                    bytes_per_second_to_clients: rate(self.bytes_per_second_to_clients, unset.bytes_per_second_to_clients),
                }
            }

            /// A key whose value is no limit anybody could live with, and why.
            pub(crate) fn wrong(&self) -> Option<(&'static str, &'static str)> {
                let zero = |cap: Option<Cap<usize>>| cap == Some(Cap::At(0));
                let trickle = |cap: Option<Cap<Size>>| matches!(cap, Some(Cap::At(rate)) if rate.0 < SLOWEST);
                let no_rate = |cap: Option<Cap<f64>>| matches!(cap, Some(Cap::At(rate)) if !(rate > 0.0 && rate.is_finite()));
                [
                    (zero(self.tunnels), "tunnels", ABOVE_ZERO),
                    (zero(self.streams), "streams", ABOVE_ZERO),
                    (zero(self.waiting_clients), "waiting_clients", ABOVE_ZERO),
                    (no_rate(self.opens_per_second), "opens_per_second", ABOVE_ZERO),
                    (trickle(self.bytes_per_second_to_agents), "bytes_per_second_to_agents", AT_LEAST_1_KIB),
                    (trickle(self.bytes_per_second_to_clients), "bytes_per_second_to_clients", AT_LEAST_1_KIB),
                ]
                .into_iter()
                .find_map(|(is_wrong, key, why)| is_wrong.then_some((key, why)))
            }
        }
    };
}

limits! {
    /// `[limits]`: for all together. What is not set has no limit, but for `streams`, which then follow from how many files
    /// the process may open.
    #[derive(Default)]
    Limits {
        /// For each owner.
        owner: OwnerLimits,
    }
}

limits! {
    /// `[limits.owner]`: for each owner that has credentials.
    OwnerLimits {}
}

impl Limits {
    /// For all together, where the process may open so many files.
    pub(crate) fn overall(&self, descriptors: Option<usize>) -> quotas::Limits {
        self.over(quotas::Limits { streams: descriptors.map(streams_for), ..quotas::Limits::default() })
    }

    /// For each owner.
    pub(crate) fn of_owner(&self) -> quotas::Limits {
        self.owner.over(OwnerLimits::default().over(quotas::Limits::default()))
    }
}

/// A client costs two descriptors where its agent has a connection for it alone; the rest is for listeners and agents.
fn streams_for(descriptors: usize) -> usize {
    (descriptors.saturating_sub(128) / 2).max(32)
}

impl Default for OwnerLimits {
    fn default() -> Self {
        Self {
            tunnels: Some(Cap::At(100)),
            streams: Some(Cap::At(10_000)),
            waiting_clients: Some(Cap::At(1024)),
            opens_per_second: Some(Cap::At(10.0)),
            bytes_per_second_to_agents: None,
            bytes_per_second_to_clients: None,
        }
    }
}

/// A number, or `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap<T> {
    /// So many.
    At(T),
    /// As many as come.
    Unlimited,
}

fn limit<T>(set: Option<Cap<T>>, unset: Option<T>) -> Option<T> {
    match set {
        Some(Cap::At(limit)) => Some(limit),
        Some(Cap::Unlimited) => None,
        None => unset,
    }
}

fn rate(set: Option<Cap<Size>>, unset: Option<u64>) -> Option<u64> {
    limit(set, unset.map(Size)).map(|Size(bytes)| bytes)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Cap<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling<T> {
            Number(T),
            Text(String),
        }
        match Spelling::deserialize(from) {
            Ok(Spelling::Number(number)) => Ok(Self::At(number)),
            Ok(Spelling::Text(text)) if text == UNLIMITED => Ok(Self::Unlimited),
            _ => Err(de::Error::custom(
                "write a number, or a size such as \"10MiB\" where it is about bytes, or \"unlimited\"",
            )),
        }
    }
}

const UNLIMITED: &str = "unlimited";
const ABOVE_ZERO: &str = "must be above zero; \"unlimited\" is no limit";
const AT_LEAST_1_KIB: &str = "must be at least \"1KiB\"; \"unlimited\" is no limit";

/// Below this a stream looks dead.
const SLOWEST: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn limits(text: &str) -> Limits {
        Config::parse(text, std::path::Path::new("t.toml")).unwrap().limits
    }

    #[test]
    fn what_an_owner_has_is_what_is_set_and_else_the_default() {
        let default = limits("").of_owner();
        assert_eq!(
            (default.tunnels, default.opens_per_second, default.bytes_per_second_to_agents),
            (Some(100), Some(10.0), None)
        );
        let set = limits(
            "[limits.owner]\ntunnels = 5\nopens_per_second = 0.5\nwaiting_clients = 'unlimited'\n\
             bytes_per_second_to_agents = '10MiB'",
        );
        let expected = quotas::Limits {
            tunnels: Some(5),
            opens_per_second: Some(0.5),
            waiting_clients: None,
            bytes_per_second_to_agents: Some(10 * 1024 * 1024),
            ..default
        };
        assert_eq!(set.of_owner(), expected);
    }

    #[test]
    fn the_streams_of_all_follow_from_the_descriptors_unless_they_are_set() {
        let streams = |text, descriptors| limits(text).overall(descriptors).streams;
        assert_eq!(streams("", Some(1024)), Some(448));
        assert_eq!(streams("", Some(256)), Some(64));
        assert_eq!(streams("", Some(64)), Some(32));
        assert_eq!(streams("", None), None);
        assert_eq!(streams("[limits]\nstreams = 7", Some(1024)), Some(7));
        assert_eq!(streams("[limits]\nstreams = 'unlimited'", Some(1024)), None);
        assert_eq!(limits("").overall(None), quotas::Limits::default());
    }
}
