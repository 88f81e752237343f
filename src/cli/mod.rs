//! The command line: what can be typed, and nothing of what it does.

mod arguments;
mod completion;
mod log_file;
mod output;
mod passphrase;
mod progress;
mod run;
mod signals;
mod usage;
mod verbs;

pub use run::main;
