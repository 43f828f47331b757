//! The examples are the files beside this one; run them from the root, such as `cargo run --example http_behind_nat`.
