//! Programs that the configuration names: commands that print passwords, tunnels, what runs our tools elsewhere.

use std::path::PathBuf;

use crate::config::directories;
use crate::config::environment::Environment;
use crate::error::{Error, Kind, Result};
use crate::process::{Program, find_program};

/// The program of `words`, looked for in `PATH` unless it is a path, with its arguments and the caller's environment without
/// what is PostgreSQL's and ours. `setting` is the key that has the words, for messages.
pub fn program(words: &[String], environment: &Environment, setting: &str) -> Result<Program> {
    let Some((name, arguments)) = words.split_first() else {
        return Err(Error::usage(format!("{setting} is empty")));
    };
    let path = match name.contains('/') {
        true => PathBuf::from(name),
        false => find_program(name, &directories::path(environment)).ok_or_else(|| {
            Error::new(Kind::MissingProgram, format!("Missing command: {name}"))
                .hint(format!("{setting} of the instance names it: install it, or give its path"))
        })?,
    };
    Ok(Program::new(path, environment.of_others()).args(arguments))
}
