//! Objects in memory, and a decorator that injects faults: for tests of everything above the storage layer.
