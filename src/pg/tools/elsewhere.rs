//! Client programs in other surroundings, such as the pod of the server, where a prefix runs them.
//!
//! Our environment and our files do not go along, and arguments can be read by everybody on both hosts. So the connection,
//! with its password, is told to a small shell script on its standard input; the script becomes the program, which finds
//! on its standard input what is left of it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::environment::Environment;
use crate::error::{Error, Result};
use crate::pg::foreign;
use crate::pg::session::ChildConnection;
use crate::process::{Program, shell_word};

/// What runs a program elsewhere: a program of this host and its arguments, which the program there and its own follow.
#[derive(Clone, Debug)]
pub struct Prefix {
    pub words: Vec<String>,
    /// Of the program of this host.
    pub environment: Environment,
}

/// Reads `NAME=VALUE` to an empty line. A shell reads its lines byte by byte: what follows is left to the program.
const TAKE_CONNECTION: &str = "while IFS= read -r line; do [ -n \"$line\" ] || exec \"$@\"; export \"$line\"; done; \
    echo \"the connection did not arrive on standard input: does bin_prefix pass it on, as kubectl exec -i does?\" >&2; \
    exit 96";

impl Prefix {
    /// A program there, without a connection.
    pub(super) fn program(&self, program: &Path) -> Result<Program> {
        Ok(foreign::program(&self.words, &self.environment, "bin_prefix")?.called(&called(program)).arg(program))
    }

    pub(super) fn client(
        &self,
        program: &Path,
        connection: &ChildConnection,
        more: impl Iterator<Item = (String, String)>,
    ) -> Result<Program> {
        let password = connection.password().map(|password| ("PGPASSWORD".to_owned(), password.expose().to_owned()));
        let variables = connection.variables().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut told = String::new();
        for (name, value) in variables.chain(password).chain(more) {
            if value.contains(['\n', '\0']) {
                return Err(Error::usage(format!("{name} has a line break in it, and cannot be told to bin_prefix")));
            }
            told += &format!("{name}={value}\n");
        }
        told.push('\n');
        let shell = foreign::program(&self.words, &self.environment, "bin_prefix")?;
        let shell = shell.args(["sh", "-c", TAKE_CONNECTION, "pgkeep"]).arg(program);
        let password = connection.password().cloned();
        let hidden = move |line: &str| password.as_ref().map_or_else(|| line.to_owned(), |it| it.blot_out(line));
        Ok(shell.called(&called(program)).told_first(told.into_bytes()).retold(hidden))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.words.iter().map(|word| shell_word(word.as_ref())).collect();
        f.write_str(&words.join(" "))
    }
}

/// A program there, by its directory or by the `PATH` that is there.
pub(super) fn path(directory: Option<&Path>, name: &str) -> PathBuf {
    directory.map_or_else(|| PathBuf::from(name), |directory| directory.join(name))
}

fn called(program: &Path) -> String {
    program.file_name().unwrap_or(OsStr::new("program")).to_string_lossy().into_owned()
}
