//! What the stories share: throwaway PostgreSQL servers, the program under test, schemas to back up, equality.
//!
//! Every test binary includes this file whole and uses a part of it.
#![allow(dead_code, unused_imports, clippy::disallowed_methods, clippy::unwrap_used)]

pub mod cluster;
pub mod dumps;
pub mod equality;
pub mod kept;
pub mod pgkeep;
pub mod proxy;
pub mod rclone;
pub mod shapes;
pub mod stored;
pub mod weed;

pub use cluster::{Cluster, Options, PgVersion};
pub use pgkeep::{Outcome, Workspace, executable};
pub use proxy::Proxy;
pub use stored::Stored;
pub use weed::{Bucket, Weed};

/// A variable of the environment that steers tests.
pub fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// Whether the full counts of every proof were asked for (`ops/test.sh --long`).
pub fn long() -> bool {
    environment("PGKEEP_TEST_LONG").is_some_and(|value| value == "1")
}

/// `small` by default, `full` under `ops/test.sh --long`.
pub fn count(small: usize, full: usize) -> usize {
    if long() { full } else { small }
}
