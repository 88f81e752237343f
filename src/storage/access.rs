//! What opening a store needs beside its address.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::environment::Environment;

/// The surroundings of a store. A local directory needs none of them.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where credentials are looked for, and what programs are started with.
    pub environment: Environment,
    /// The journal of multipart uploads that are under way: one file for each, so that what a killed run left in a
    /// bucket can be removed. Made when it is needed.
    pub uploads: PathBuf,
    pub patience: Patience,
}

/// How long a store is waited for, and how often it is asked again. The default is for production; tests shorten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From the first request of a store to its answer, all attempts together.
    pub opening: Duration,
    /// One attempt to connect.
    pub connect: Duration,
    /// From a request to the head of its answer, beyond the time that the request's own bytes take.
    pub answer: Duration,
    /// What the slowest healthy line carries: a request may take as long as its bytes take at this speed.
    pub slowest_bytes_per_second: u32,
    /// How long nothing may arrive in the middle of an answer.
    pub stall: Duration,
    /// How often a request is made before its failure stands.
    pub attempts: u32,
    /// The pause before the second attempt, on average; it doubles from one to the next.
    pub pause: Duration,
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            opening: Duration::from_secs(12),
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            slowest_bytes_per_second: 128 << 10,
            stall: Duration::from_secs(30),
            attempts: 8,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
        }
    }
}
