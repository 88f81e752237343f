//! What long work reports while it runs. The library reports; who listens (a terminal, a log, nobody) is the caller's.

use std::fmt::Debug;
use std::sync::Arc;

/// What a task counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

/// Receives what work reports. Calls come from several threads and must not block.
pub trait Monitor: Send + Sync + Debug {
    /// A piece of long work begins. `total` is an estimate where one is known.
    fn task(&self, label: &str, unit: Unit, total: Option<u64>) -> Arc<dyn Task>;
}

/// One piece of long work. Dropping the last handle ends it.
pub trait Task: Send + Sync + Debug {
    fn advance(&self, count: u64);
    /// What is being worked on at the moment ("public.orders").
    fn note(&self, text: &str);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn task(&self, _label: &str, _unit: Unit, _total: Option<u64>) -> Arc<dyn Task> {
        Arc::new(Silent)
    }
}

impl Task for Silent {
    fn advance(&self, _count: u64) {}
    fn note(&self, _text: &str) {}
}
