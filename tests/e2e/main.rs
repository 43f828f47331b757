//! The service from end to end: a server, agents and clients over real sockets on loopback. One file a promise.
#![allow(clippy::unwrap_used, reason = "all of this is tests, also what they share")]
#![allow(clippy::large_futures, reason = "a test that awaits much is one, once")]

/// Runs each of these tests on both backends.
macro_rules! each_backend {
    ($($test:ident)+) => {
        $(mod $test {
            #[tokio::test]
            async fn tcp() {
                tunnel_tests::limit::within(super::$test("tcp")).await;
            }

            #[tokio::test]
            async fn mux() {
                tunnel_tests::limit::within(super::$test("mux")).await;
            }
        })+
    };
}

/// Runs each of these tests by every way that requests come to agents.
macro_rules! each_way {
    ($($test:ident)+) => {
        $(mod $test {
            use tunnel_tests::web::Way;

            #[tokio::test]
            async fn requests() {
                tunnel_tests::limit::within(super::$test(Way::Requests)).await;
            }

            #[tokio::test]
            async fn connections() {
                tunnel_tests::limit::within(super::$test(Way::Connections)).await;
            }

            #[tokio::test]
            async fn tcp() {
                tunnel_tests::limit::within(super::$test(Way::Tcp)).await;
            }
        })+
    };
}

mod agents;
mod arrivals;
mod bad_input;
mod closed_at_once;
mod composition;
mod credentials;
mod door;
mod draining;
mod grpc_web;
mod http1_proxies;
mod imports;
mod limits;
mod long_paths;
mod restarts;
mod rpc;
mod sdk;
mod seen;
mod serve;
mod streams;
mod tls;
mod web_hosts;
mod web_https;
mod web_names;
mod web_smuggling;
mod web_streams;
mod web_upgrades;
