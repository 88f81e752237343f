//! `pgkeep restore`: what was backed up, made usable again.

pub mod dump;
