use std::{net::IpAddr, time::Duration};

use serde::Deserialize;
use tunnel_backends::{carrier::ptth::Patience, composed::Times, relay::RelayTimes};

/// Every kind of backend has clients, leases and streams, and keys for them. (`serde(flatten)` would put them in one place,
/// but cannot refuse unknown keys.)
macro_rules! backend {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $key:ident: $type:ty = $default:expr,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$doc])* pub $key: $type,)*
            /// Where its ports listen. Unset: the host of `listen`.
            pub bind: Option<IpAddr>,
            /// Clients of one tunnel that may wait for an agent.
            pub waiting_clients: usize,
            /// How long such a client waits.
            #[serde(with = "humantime_serde")]
            pub client_wait: Duration,
            /// How long an unnamed tunnel may stay undialled.
            #[serde(with = "humantime_serde")]
            pub dial_within: Duration,
            /// How long an unnamed tunnel outlives its agents.
            #[serde(with = "humantime_serde")]
            pub grace: Duration,
            /// The same for a named one, before its first agent and after its last.
            #[serde(with = "humantime_serde")]
            pub named_grace: Duration,
            /// How long a stream may stand still while one direction is over and the other one is silent.
            #[serde(with = "humantime_serde")]
            pub half_closed: Duration,
            /// How long a stream may stand still while one side takes nothing of what it was sent.
            #[serde(with = "humantime_serde")]
            pub unread: Duration,
            /// How long the last bytes before an abort may take to leave.
            #[serde(with = "humantime_serde")]
            pub linger: Duration,
        }

        impl $name {
            pub(crate) fn times(&self) -> Times {
                Times {
                    dial_within: self.dial_within,
                    grace: self.grace,
                    named_grace: self.named_grace,
                    client_wait: self.client_wait,
                    relay: RelayTimes { half_closed: self.half_closed, unread: self.unread, linger: self.linger },
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                let times = Times::default();
                Self {
                    $($key: $default,)*
                    bind: None,
                    waiting_clients: 64,
                    client_wait: times.client_wait,
                    dial_within: times.dial_within,
                    grace: times.grace,
                    named_grace: times.named_grace,
                    half_closed: times.relay.half_closed,
                    unread: times.relay.unread,
                    linger: times.relay.linger,
                }
            }
        }
    };
}

backend! {
    /// `[backends.<name>.tcp]`.
    Tcp {
        /// What `connections` may be at the most.
        max_connections: u32 = 1024,
    }
}

backend! {
    /// `[backends.<name>.mux]`.
    Mux {
        /// How many agent connections one tunnel may have.
        max_sessions: usize = 64,
        /// Silence after which an agent is asked whether it is there.
        #[serde(with = "humantime_serde")]
        ping_after: Duration = Patience::default().ping_after,
        /// Silence after which it is given up.
        #[serde(with = "humantime_serde")]
        dead_after: Duration = Patience::default().dead_after,
    }
}
