//! pgkeep: PostgreSQL backups that are proven to restore.
//!
//! The layers, top to bottom; a module names only modules below its own line (`tests/layers.rs` enforces it):
//!
//! ```text
//! cli/                         the clap tree, tables, bars, exit codes (binary only)
//! command/                     one module per verb
//! repo/                        what is stored: keys, manifests, catalogue, intents, records
//! pg/     storage/   stream/   PostgreSQL | objects | bytes in motion (siblings)
//! config/                      addresses, connection sources, secrets
//! error interrupt process progress clock digest
//! ```
//!
//! The library never prints, exits, reads the environment outside `config`, or takes the time from anything but
//! [`clock`].

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::exit, clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod command;
pub mod config;
pub mod digest;
pub mod error;
pub mod interrupt;
pub mod pg;
pub mod process;
pub mod progress;
pub mod repo;
pub mod storage;
pub mod stream;
