//! Passwords that the configuration says where to find: fetched for each connection, so that one that changes is known.

use std::path::PathBuf;
use std::time::Duration;

use super::foreign;
use crate::config::environment::Environment;
use crate::config::private_file::{self, Readers};
use crate::config::secret::Secret;
use crate::error::{Error, Kind, Result};

/// How long a command may take: it may have to ask a service.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than any password or token.
const LIMIT_BYTES: u64 = 64 << 10;

#[derive(Clone, Debug)]
pub enum PasswordSource {
    /// It holds the password and nothing else, but for the end of a line.
    File(PathBuf),
    /// A program that prints it, in this environment.
    Command { words: Vec<String>, environment: Environment },
}

impl PasswordSource {
    /// The password of now. No error repeats it, nor what a command said.
    pub async fn fetch(&self) -> Result<Secret> {
        match self {
            Self::File(path) => {
                let text = private_file::read(path, Readers::Group)
                    .map_err(|error| Error::new(error.kind, "read password_file of the instance").because(error))?;
                one_line(&text, "password_file of the instance")
            }
            Self::Command { words, environment } => run(words, environment).await,
        }
    }
}

async fn run(words: &[String], environment: &Environment) -> Result<Secret> {
    let failed = |what: String| {
        Error::new(Kind::Connect, what)
            .hint("run password_command by hand, as the user and in the environment of this run")
    };
    let program = foreign::program(words, environment, "password_command")?.unheard();
    let (output, exit) = tokio::time::timeout(PATIENCE, program.output(LIMIT_BYTES)).await.map_err(|_| {
        failed(format!("password_command of the instance said nothing within {} s", PATIENCE.as_secs()))
    })??;
    if !exit.success() {
        return Err(failed(format!("password_command of the instance ended with {}", exit.reason())));
    }
    let text =
        String::from_utf8(output).map_err(|_| failed("password_command of the instance printed no text".to_owned()))?;
    one_line(&text, "what password_command of the instance printed")
}

fn one_line(text: &str, whose: &str) -> Result<Secret> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let wrong = match line {
        "" => "is empty",
        line if line.contains(['\n', '\r', '\0']) => "has more than one line",
        line => return Ok(Secret::new(line)),
    };
    Err(Error::usage(format!("{whose} {wrong}")).hint("the password stands there alone, on one line"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn command(script: &str) -> PasswordSource {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        PasswordSource::Command {
            words,
            environment: Environment::from_pairs([("PATH", "/usr/bin:/bin"), ("PGX", "1")]),
        }
    }

    #[tokio::test]
    async fn a_command_prints_the_password_and_an_error_repeats_nothing_of_it() {
        let password = command("echo \"it's ${PGX:-a} password\"").fetch().await.unwrap();
        assert_eq!(password.expose(), "it's a password");
        let error = command("echo hunter2; echo hunter2 >&2; exit 3").fetch().await.unwrap_err();
        assert_eq!(error.to_string(), "password_command of the instance ended with exit code 3");
        assert!(error.next_step().is_some_and(|hint| hint.contains("by hand")));
        for script in ["true", "echo a; echo b"] {
            assert_eq!(command(script).fetch().await.unwrap_err().kind, Kind::Usage, "{script}");
        }
        let words = vec!["no-such-program".to_owned()];
        let missing = PasswordSource::Command { words, environment: Environment::from_pairs([("PATH", "/bin")]) };
        assert_eq!(missing.fetch().await.unwrap_err().kind, Kind::MissingProgram);
    }

    #[tokio::test]
    async fn a_file_is_read_if_it_is_private() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\r\n").unwrap();
        let source = PasswordSource::File(file.path().to_owned());
        assert_eq!(source.fetch().await.unwrap().expose(), "hunter2");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = source.fetch().await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert!(!error.to_string().contains("hunter2"));
    }
}
