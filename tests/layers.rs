//! The layer rule of `src/lib.rs`, enforced: a module names only modules below its own line.
//!
//! The sources are read as tokens, so that comments, strings and line breaks hide nothing and accuse nobody.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Top to bottom. Modules on one line do not know each other, except on the ground.
const LAYERS: [&[&str]; 6] = [
    &["cli"],
    &["command"],
    &["repo"],
    &["pg", "storage", "stream"],
    &["config"],
    &["error", "interrupt", "process", "progress", "clock", "digest"],
];
const GROUND: usize = LAYERS.len() - 1;

/// Modules of `command` that are verbs, and the form that the env file gives to one. Whatever else lies there serves
/// verbs and names none.
const VERBS: [&str; 11] =
    ["dump", "drop_in", "basebackup", "wal", "restore", "verify", "prune", "copy", "report", "serve", "check"];

/// Which verb may use another verb's plan and execution: never in both directions.
const VERB_USES_VERB: [(&str, &str); 2] = [("verify", "restore"), ("drop_in", "dump")];

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

#[test]
fn every_module_names_only_lower_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&src, &mut files);
    assert!(files.len() > 10, "the sources were not found in {}", src.display());
    let mut violations = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        violations.extend(violations_in(Path::new("src").join(file.strip_prefix(&src).unwrap()).as_path(), &text));
    }
    let report: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(report.is_empty(), "\n{}\n", report.join("\n"));
}

#[test]
fn violations_are_found_where_they_stand() {
    let found = |file: &str, text: &str| -> Vec<String> {
        violations_in(Path::new(file), text).iter().map(Violation::to_string).collect()
    };
    // Upwards, in every way to write it.
    assert_eq!(
        found("src/storage/local.rs", "\n\nuse crate::repo::Key;"),
        ["src/storage/local.rs:3: storage names repo"]
    );
    assert_eq!(found("src/pg/mod.rs", "fn f() { crate::command::dump::run() }"), ["src/pg/mod.rs:1: pg names command"]);
    assert_eq!(found("src/pg/mod.rs", "use super::repo;"), ["src/pg/mod.rs:1: pg names repo"]);
    assert_eq!(found("src/pg/tools.rs", "use super::super::repo::x;"), ["src/pg/tools.rs:1: pg names repo"]);
    assert_eq!(
        found("src/pg/tools.rs", "mod tests {\n use super::super::super::repo;\n}"),
        ["src/pg/tools.rs:2: pg names repo"]
    );
    assert_eq!(
        found("src/config/mod.rs", "use crate::{\n  error::{Error, Kind},\n  stream::x::{self, y},\n  pg,\n};"),
        ["src/config/mod.rs:3: config names stream", "src/config/mod.rs:4: config names pg"]
    );
    assert_eq!(found("src/clock.rs", "fn f(x: &crate /* */ :: config::X) {}"), ["src/clock.rs:1: clock names config"]);
    // Sideways.
    assert_eq!(found("src/stream/mod.rs", "use crate::storage::Key;"), ["src/stream/mod.rs:1: stream names storage"]);
    assert_eq!(
        found("src/command/restore/dump.rs", "use crate::command::verify::plan;"),
        ["src/command/restore/dump.rs:1: verb restore names verb verify"]
    );
    assert_eq!(
        found("src/command/selection.rs", "use super::dump;"),
        ["src/command/selection.rs:1: command::selection, which serves verbs, names verb dump"]
    );
    // Everything at once, and what nobody has placed.
    assert_eq!(found("src/pg/mod.rs", "use crate::*;"), ["src/pg/mod.rs:1: pg names the whole crate"]);
    assert_eq!(found("src/helper.rs", ""), ["src/helper.rs:1: module helper stands in no layer"]);
    assert_eq!(found("src/pg/mod.rs", "use crate::helper::x;"), ["src/pg/mod.rs:1: helper stands in no layer"]);
    // The binary's module.
    assert_eq!(found("src/lib.rs", "pub mod cli;"), ["src/lib.rs:1: the library names cli"]);
    assert_eq!(found("src/command/dump.rs", "use crate::cli::run;"), ["src/command/dump.rs:1: command names cli"]);
}

#[test]
fn what_is_allowed_is_not_accused() {
    let clean = |file: &str, text: &str| assert_eq!(violations_in(Path::new(file), text), []);
    clean("src/lib.rs", "//! cli/ is the binary's\npub mod clock;\npub mod command;");
    clean("src/main.rs", "mod cli;\nfn main() { cli::run() }");
    clean("src/cli/run.rs", "use pgkeep::command::dump;\nuse crate::cli::output;\nuse super::output;");
    clean("src/repo/mod.rs", "use crate::{pg, storage::Key, stream::*, config, error::Result, repo::layout};");
    clean("src/process.rs", "use crate::error::{Doing, Error};");
    clean("src/pg/tools.rs", "use super::session; mod tests { use super::*; use super::super::archive; }");
    clean(
        "src/storage/mod.rs",
        "/// See [`crate::repo`].\n/* crate::command */ // crate::cli\nconst A: &str = \"crate::repo\";",
    );
    clean(
        "src/storage/mod.rs",
        "const A: &str = r#\"\" crate::repo\"#; const B: char = '\"'; const C: &str = \"crate::repo\";",
    );
    clean("src/storage/mod.rs", "fn f<'a>(x: &'a str, y: char) -> bool { y == '\\'' } // 'crate::repo");
    clean("src/command/verify/mod.rs", "use crate::command::{Context, restore::plan};");
    clean("src/command/dump/mod.rs", "use super::Context; use self::plan::Plan; use super::super::repo;");
}

fn collect_sources(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `file` is relative to the package: `src/pg/tools.rs`.
fn violations_in(file: &Path, text: &str) -> Vec<Violation> {
    let tokens = tokens(text);
    let here = module_path(file);
    let violation = |line: usize, what: String| Violation { file: file.to_owned(), line, what };
    let Some(own) = here.first() else {
        let is_library = file == Path::new("src/lib.rs");
        let named = tokens.iter().filter(|(_, token)| is_library && token == "cli");
        return named.map(|(line, _)| violation(*line, "the library names cli".into())).collect();
    };
    if layer(own).is_none() {
        return vec![violation(1, format!("module {own} stands in no layer"))];
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (line, path) in paths(&tokens, &here) {
        if let Some(what) = judgement(&here, &path)
            && seen.insert((line, what.clone()))
        {
            found.push(violation(line, what));
        }
    }
    found
}

/// What is wrong with module `here` naming `path`, both from the root of the crate.
fn judgement(here: &[String], path: &[String]) -> Option<String> {
    let own = &here[0];
    let Some(named) = path.first() else { return Some(format!("{own} names the crate's root")) };
    if named == "*" {
        return Some(format!("{own} names the whole crate"));
    }
    if named == own {
        return if own == "command" { verb_judgement(here, path) } else { None };
    }
    let Some(named_layer) = layer(named) else {
        // What lib.rs itself defines begins with a capital letter, or is a macro.
        return named.starts_with(|c: char| c.is_lowercase()).then(|| format!("{named} stands in no layer"));
    };
    let own_layer = layer(own)?;
    let allowed = named_layer > own_layer || (own_layer == GROUND && named_layer == GROUND);
    (!allowed).then(|| format!("{own} names {named}"))
}

fn verb_judgement(here: &[String], path: &[String]) -> Option<String> {
    let named = path.get(1).filter(|name| VERBS.contains(&name.as_str()))?;
    let Some(own) = here.get(1) else { return Some(format!("command, which serves verbs, names verb {named}")) };
    if own == named || VERB_USES_VERB.contains(&(own, named)) {
        return None;
    }
    if VERBS.contains(&own.as_str()) {
        return Some(format!("verb {own} names verb {named}"));
    }
    Some(format!("command::{own}, which serves verbs, names verb {named}"))
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// `src/pg/tools.rs` → `["pg", "tools"]`; empty for the two roots.
fn module_path(file: &Path) -> Vec<String> {
    let inner = file.strip_prefix("src").unwrap().with_extension("");
    let mut path: Vec<String> = inner.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] || path == ["main"] {
        path.pop();
    }
    path
}

type Token = (usize, String);

/// Every path that begins with `crate`, `pgkeep` or `super`, from the root of the crate, with the line of its last part.
fn paths(tokens: &[Token], file_module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut module = file_module.to_vec();
    // One entry per open brace: whether it is that of an inline module.
    let mut braces = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is = |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|(_, token)| token == text);
        match tokens[at].1.as_str() {
            "mod" if is(2, "{") => {
                module.push(tokens[at + 1].1.clone());
                braces.push(true);
                at += 3;
            }
            "{" => {
                braces.push(false);
                at += 1;
            }
            "}" => {
                if braces.pop() == Some(true) {
                    module.pop();
                }
                at += 1;
            }
            "crate" | "pgkeep" | "super" if is(1, "::") => {
                let mut base = Vec::new();
                if tokens[at].1 == "super" {
                    base.clone_from(&module);
                    while tokens[at].1 == "super" && tokens.get(at + 1).is_some_and(|(_, token)| token == "::") {
                        base.pop();
                        at += 2;
                    }
                } else {
                    at += 2;
                }
                at = tree(tokens, at, &base, &mut found);
            }
            _ => at += 1,
        }
    }
    found
}

/// Reads what follows a `::`, a path or a `{…}` of paths, and returns where it ends.
fn tree(tokens: &[Token], mut at: usize, base: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let Some((line, first)) = tokens.get(at) else { return at };
    if first == "{" {
        at += 1;
        while tokens.get(at).is_some_and(|(_, token)| token != "}") {
            let next = tree(tokens, at, base, found);
            at = next.max(at + 1);
            // "as name" and the comma
            while tokens.get(at).is_some_and(|(_, token)| token != "," && token != "}") {
                at += 1;
            }
            if tokens.get(at).is_some_and(|(_, token)| token == ",") {
                at += 1;
            }
        }
        return at + 1;
    }
    let mut path = base.to_vec();
    if first != "self" {
        path.push(first.clone());
    }
    if tokens.get(at + 1).is_some_and(|(_, token)| token == "::") {
        return tree(tokens, at + 2, &path, found);
    }
    found.push((*line, path));
    at + 1
}

/// Identifiers, `::` and single characters with their lines; comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment_length(rest),
            ['"', ..] => string_length(rest),
            ['r', '"' | '#', ..] | ['b' | 'c', 'r', '"' | '#', ..] if raw_string_length(rest).is_some() => {
                raw_string_length(rest).unwrap()
            }
            ['\'', ..] => quote_length(rest),
            [':', ':', ..] => {
                found.push((line, "::".to_owned()));
                2
            }
            [c, ..] if c.is_alphabetic() || *c == '_' => {
                let length = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
                found.push((line, rest[..length].iter().collect()));
                length
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    found.push((line, c.to_string()));
                }
                1
            }
            [] => unreachable!("at < chars.len()"),
        };
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    found
}

fn block_comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r"…"`, `br#"…"#`; `None` for a raw identifier such as `r#type`.
fn raw_string_length(rest: &[char]) -> Option<usize> {
    let prefix = rest.iter().position(|c| *c == '"' || *c == '#')?;
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let body = prefix + hashes + 1;
    (rest.get(body - 1) == Some(&'"')).then_some(())?;
    let ending: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let end = rest.get(body..)?.windows(ending.len()).position(|window| window == ending)?;
    Some(body + end + ending.len())
}

/// A character such as `'"'` or `'\''`, or the quote of a lifetime.
fn quote_length(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, ..] => 3 + rest[3..].iter().position(|c| *c == '\'').map_or(0, |end| end + 1),
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}
