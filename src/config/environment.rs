//! What the process was started with: variables, home directory, account.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// A snapshot of the environment. Everything that depends on a variable takes one of these, so that tests choose it
/// and a variable that changes while we run changes nothing.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    home: Option<PathBuf>,
    account: Option<String>,
}

impl Environment {
    /// Reads the environment of this process; nothing else in the program does.
    #[allow(clippy::disallowed_methods)]
    pub fn of_process() -> Self {
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        Self { variables: std::env::vars_os().collect(), home, account: whoami::username().ok() }
    }

    /// An environment of exactly these variables; the home directory is `HOME`, the account is unknown.
    pub fn from_pairs<K: Into<OsString>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables: BTreeMap<OsString, OsString> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let home = variables.get(OsStr::new("HOME")).filter(|home| !home.is_empty()).map(PathBuf::from);
        Self { variables, home, account: None }
    }

    /// The same environment, seen by the operating-system account `name`.
    pub fn with_account(mut self, name: impl Into<String>) -> Self {
        self.account = Some(name.into());
        self
    }

    /// This environment with `pairs` in addition; they replace what has the same name.
    pub fn completed(mut self, pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.variables.extend(pairs);
        self
    }

    /// This environment without the variables of these names.
    pub fn without(mut self, names: &[&str]) -> Self {
        self.variables.retain(|name, _| !names.iter().any(|gone| name == *gone));
        self
    }

    /// What programs get that are neither ours nor PostgreSQL's: the caller's environment without what concerns PostgreSQL
    /// and us, and without our own keys.
    pub fn of_others(&self) -> BTreeMap<OsString, OsString> {
        let kept = |name: &OsStr| !name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("OSS_"));
        self.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// A variable, also when it is empty; `None` where it is unset or not UTF-8 (see [`Environment::is_garbled`]).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name)?.to_str()
    }

    /// A variable as the operating system gave it: for paths and search paths.
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Whether the variable is set to something that is not UTF-8 and would silently read as unset.
    pub fn is_garbled(&self, name: &str) -> bool {
        self.get_os(name).is_some_and(|value| value.to_str().is_none())
    }

    /// `HOME`, else the home directory of the account.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The operating-system account that this process runs as.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Names and values, for building the environment of a child from an allow-list.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

// Values may be passwords: only names are shown.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn values_are_found_and_never_debug_printed() {
        let environment = Environment::from_pairs([("PGPASSWORD", "hunter2"), ("HOME", "/home/a"), ("EMPTY", "")]);
        assert_eq!(environment.get("PGPASSWORD"), Some("hunter2"));
        assert_eq!(environment.get("EMPTY"), Some(""));
        assert_eq!(environment.get("NONE"), None);
        assert_eq!(environment.home(), Some(Path::new("/home/a")));
        assert!(!format!("{environment:?}").contains("hunter2"));
    }

    #[test]
    fn others_get_nothing_of_postgresql_and_none_of_our_keys() {
        let names = ["PGPASSWORD", "PGKEEP_CONFIG", "OSS_ACCESS_KEY_SECRET", "KUBECONFIG", "PATH"];
        let environment = Environment::from_pairs(names.map(|name| (name, "x")));
        let kept: Vec<OsString> = environment.of_others().into_keys().collect();
        assert_eq!(kept, ["KUBECONFIG", "PATH"]);
        let environment = environment.without(&["PATH", "NONE"]);
        assert_eq!((environment.get("PATH"), environment.get("PGPASSWORD")), (None, Some("x")));
    }

    #[test]
    fn a_value_that_is_not_text_is_told_from_an_unset_one() {
        let environment = Environment::from_pairs([(OsString::from("PGUSER"), OsString::from_vec(vec![0xff]))]);
        assert_eq!(environment.get("PGUSER"), None);
        assert!(environment.is_garbled("PGUSER"));
        assert!(!environment.is_garbled("PGHOST"));
    }
}
