//! Service files: named sets of connection parameters.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::keyword::Settings;
use crate::config::environment::Environment;
use crate::error::{Doing, Error, Kind, Result};

/// Where packagers compile libpq to look when `PGSYSCONFDIR` is unset: Debian, and the RPMs of postgresql.org.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

/// Fills what `settings` leaves open from the service that is asked for, if one is.
pub(super) fn apply(settings: &mut Settings, environment: &Environment) -> Result<()> {
    let Some(service) = settings.get("service").or_else(|| environment.get("PGSERVICE")).map(str::to_owned) else {
        return Ok(());
    };
    let named = settings.get("servicefile").or_else(|| environment.get("PGSERVICEFILE")).map(PathBuf::from);
    // A file that was named must exist; the usual ones need not.
    if let Some(path) = &named {
        let text = std::fs::read_to_string(path)
            .doing(Kind::Usage, || format!("read service file {path:?}"))
            .map_err(|e| e.hint("correct PGSERVICEFILE, or unset it to use ~/.pg_service.conf"))?;
        if apply_text(&text, &service, settings).map_err(|e| in_file(path, e))? {
            return Ok(());
        }
    }
    let own = if named.is_none() { environment.home() } else { None };
    for path in usual_files(own, environment) {
        let text = match std::fs::read_to_string(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            read => read.doing(Kind::Usage, || format!("read service file {path:?}"))?,
        };
        if apply_text(&text, &service, settings).map_err(|e| in_file(&path, e))? {
            return Ok(());
        }
    }
    Err(Error::usage(format!("service {service:?} is in no service file")).hint(format!(
        "add a section [{service}] to ~/.pg_service.conf, or name the file that has it in PGSERVICEFILE"
    )))
}

fn in_file(path: &Path, error: Error) -> Error {
    Error::new(error.kind, format!("read service file {path:?}")).because(error)
}

/// The user's file, where `home` is to be looked at, and the system's.
fn usual_files(home: Option<&Path>, environment: &Environment) -> Vec<PathBuf> {
    let own = home.map(|home| home.join(".pg_service.conf"));
    let system = match environment.get_os("PGSYSCONFDIR") {
        Some(directory) => vec![PathBuf::from(directory)],
        None => SYSTEM_DIRECTORIES.map(PathBuf::from).to_vec(),
    };
    own.into_iter().chain(system.into_iter().map(|directory| directory.join("pg_service.conf"))).collect()
}

/// Whether the section was there. In a section the first value of a key stands, unlike in a connection string.
fn apply_text(text: &str, service: &str, settings: &mut Settings) -> Result<bool> {
    let header = format!("[{service}]");
    let mut found = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            if found {
                return Ok(true);
            }
            found = line.starts_with(&header);
        } else if found {
            apply_line(line, settings).map_err(|e| {
                let hint = e.next_step().unwrap_or("write key=value without spaces around \"=\"").to_owned();
                Error::usage(format!("line {}", number + 1)).because(e).hint(hint)
            })?;
        }
    }
    Ok(found)
}

fn apply_line(line: &str, settings: &mut Settings) -> Result<()> {
    if line.starts_with("ldap") {
        return Err(Error::usage("a service in a directory server is not supported")
            .hint("write the parameters of the service into the file"));
    }
    match line.split_once('=') {
        None => Err(Error::usage("there is no \"=\"")),
        Some(("service" | "servicefile", _)) => Err(Error::usage("a service cannot refer to another one")),
        Some((key, value)) => settings.offer(key, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_fills_what_is_open() {
        let text = "# c\n[other]\nhost=no\n[main]\nhost=a\nhost=b\n port=1 \nuser=x\n[main2]\nport=9\n";
        let mut settings = Settings::default();
        settings.set("user", "given").unwrap();
        assert!(apply_text(text, "main", &mut settings).unwrap());
        assert_eq!(settings.get("host"), Some("a"));
        assert_eq!(settings.get("port"), Some("1"));
        assert_eq!(settings.get("user"), Some("given"));
        assert!(!apply_text(text, "mai", &mut Settings::default()).unwrap());
    }

    #[test]
    fn a_bad_line_is_an_error_only_in_the_wanted_section() {
        for bad in ["host = a", "nonsense", "service=x", "ldap://h/x", "hots=a"] {
            let text = format!("[a]\n{bad}\n[b]\nhost=x\n");
            assert!(apply_text(&text, "a", &mut Settings::default()).is_err(), "{bad}");
            assert!(apply_text(&text, "b", &mut Settings::default()).unwrap(), "{bad}");
        }
    }
}
