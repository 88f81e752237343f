//! How a store keeps what is there.

use serde::{Deserialize, Serialize};

/// How a store keeps its promise that nothing is overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CreateOnly {
    /// A hard link under the final name, which fails if there is one.
    Link,
    /// `If-None-Match: *`, proved by a probe.
    IfNoneMatch,
    /// `x-oss-forbid-overwrite`, proved by a probe.
    OssHeader,
    /// Nothing: no promise rests on it.
    None,
}
