//! Every test has a time limit: what hangs should say so, and where.

use std::time::Duration;

/// Runs a test, and panics when it takes too long.
///
/// # Panics
/// After [`LIMIT`].
pub async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test).await.expect("the test takes too long")
}

/// Far more than any test takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
