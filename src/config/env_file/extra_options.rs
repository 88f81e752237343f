//! `PG_DUMP_EXTRA_OPTS` and `--extra-opts`: which options of `pg_dump` may be added to ours, and what they mean for the
//! backup.
//!
//! Added may be what chooses objects or leaves out properties, and in the env file what sets the level of compression.
//! What redirects the output,
//! the connection, the format or the snapshot is refused by name, since pgkeep decides it and depends on it; so is what
//! makes no restorable dump. Options are written in full, with their value behind `=`; short ones may stand together as
//! everywhere. The words are split without a shell: at blanks outside quotes. Single quotes and backslashes are removed.
//! Double quotes stay, as they did in the unquoted variable of a script: `pg_dump` reads them in a pattern as the mark
//! of an exact name.

/// What is added to `pg_dump`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraOptions {
    /// Complete words, `--name` or `--name=value`, that leave nothing out.
    pub words: Vec<String>,
    /// Likewise those that leave out data, objects or rights: the dump is not a backup of the whole database.
    pub choosing: Vec<String>,
    /// `-Z N`, if it is given: 0 to 9.
    pub level: Option<u8>,
}

/// Where the options stand, which decides what is to be written instead of one that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `PG_DUMP_EXTRA_OPTS`.
    EnvFile,
    /// `--extra-opts`.
    CommandLine,
}

/// What is wrong with the options, and the next step.
#[derive(Debug, PartialEq, Eq)]
pub struct Objection {
    pub what: String,
    pub instead: &'static str,
}

/// What an option does to a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The dump still holds all data.
    Whole,
    /// Data, objects or rights are left out, which a restore cannot bring back.
    Filters,
    /// Sets the level of compression.
    Level,
    Refused(Instead),
}

/// What is to be written instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instead {
    in_env_file: &'static str,
    on_command_line: &'static str,
}

impl Instead {
    const fn of(in_env_file: &'static str, on_command_line: &'static str) -> Effect {
        Refused(Self { in_env_file, on_command_line })
    }

    const fn both(text: &'static str) -> Effect {
        Self::of(text, text)
    }

    fn at(self, place: Place) -> &'static str {
        match place {
            Place::EnvFile => self.in_env_file,
            Place::CommandLine => self.on_command_line,
        }
    }
}
use Effect::{Filters, Level, Refused, Whole};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
}
use Takes::{Nothing, Value};

struct Known {
    short: Option<char>,
    long: &'static str,
    takes: Takes,
    effect: Effect,
}

const fn known(short: Option<char>, long: &'static str, takes: Takes, effect: Effect) -> Known {
    Known { short, long, takes, effect }
}

const CONNECTION: Effect = Instead::of(
    "set PG_HOST, PG_PORT, PG_USER and PG_DATABASE, and the password in ~/.pgpass",
    "leave it out: -h, -p, -U and -d of pgkeep say where, and ~/.pgpass has the password",
);
const OUTPUT: Effect = Instead::of(
    "leave it out: the dump goes to BACKUP_BASE_DIR and to the bucket in the custom format",
    "leave it out: pgkeep says where the dump goes and in which form, by options of its own (pgkeep dump --help)",
);
const ROLE: Effect = Instead::of(
    "let PG_USER be the role that may read everything (GRANT pg_read_all_data)",
    "log in as a role that may read everything: -U, and GRANT pg_read_all_data",
);
const ROW_SECURITY: Effect = Instead::of(
    "leave it out, since it drops rows without a word: ALTER ROLE … BYPASSRLS for PG_USER",
    "leave it out, since it drops rows without a word: ALTER ROLE … BYPASSRLS for the role of -U",
);
const SNAPSHOT: Effect = Instead::both("leave it out: pgkeep chooses the snapshot");
const UNRESTORABLE: Effect = Instead::both("leave it out: the dump could not be restored into an empty database");
const DATA_ONLY: Effect = Instead::of(
    "leave it out: the dump could not be restored into an empty database",
    "use --data-only of pgkeep dump itself",
);
const NOTHING_DUMPED: Effect = Instead::both("leave it out: nothing would be dumped");
const LEVEL_INSTEAD: &str = "use --compress gzip:6 of pgkeep dump itself";

/// The options of `pg_dump` 10 to 18.
const OPTIONS: &[Known] = &[
    known(Some('n'), "schema", Value, Filters),
    known(Some('N'), "exclude-schema", Value, Filters),
    known(Some('t'), "table", Value, Filters),
    known(Some('T'), "exclude-table", Value, Filters),
    known(None, "table-and-children", Value, Filters),
    known(None, "exclude-table-and-children", Value, Filters),
    known(None, "exclude-table-data", Value, Filters),
    known(None, "exclude-table-data-and-children", Value, Filters),
    known(Some('e'), "extension", Value, Filters),
    known(None, "exclude-extension", Value, Filters),
    known(None, "filter", Value, Filters),
    known(Some('s'), "schema-only", Nothing, Filters),
    known(None, "no-data", Nothing, Filters),
    known(Some('B'), "no-blobs", Nothing, Filters),
    known(None, "no-large-objects", Nothing, Filters),
    known(None, "no-unlogged-table-data", Nothing, Filters),
    known(Some('Z'), "compress", Value, Level),
    known(Some('O'), "no-owner", Nothing, Whole),
    known(Some('x'), "no-privileges", Nothing, Filters),
    known(None, "no-acl", Nothing, Filters),
    known(None, "no-comments", Nothing, Whole),
    known(None, "no-policies", Nothing, Filters),
    known(None, "no-publications", Nothing, Whole),
    known(None, "no-security-labels", Nothing, Filters),
    known(None, "no-statistics", Nothing, Whole),
    known(None, "no-subscriptions", Nothing, Whole),
    known(None, "no-table-access-method", Nothing, Whole),
    known(None, "no-tablespaces", Nothing, Whole),
    known(None, "no-toast-compression", Nothing, Whole),
    known(None, "statistics", Nothing, Whole),
    known(Some('b'), "blobs", Nothing, Whole),
    known(None, "large-objects", Nothing, Whole),
    known(None, "include-foreign-data", Value, Whole),
    known(Some('c'), "clean", Nothing, Whole),
    known(Some('C'), "create", Nothing, Whole),
    known(None, "if-exists", Nothing, Whole),
    known(Some('v'), "verbose", Nothing, Whole),
    known(None, "lock-wait-timeout", Value, Whole),
    known(None, "no-sync", Nothing, Whole),
    known(None, "strict-names", Nothing, Whole),
    known(None, "quote-all-identifiers", Nothing, Whole),
    known(None, "extra-float-digits", Value, Whole),
    known(None, "load-via-partition-root", Nothing, Whole),
    known(None, "inserts", Nothing, Whole),
    known(None, "column-inserts", Nothing, Whole),
    known(None, "attribute-inserts", Nothing, Whole),
    known(None, "rows-per-insert", Value, Whole),
    known(None, "on-conflict-do-nothing", Nothing, Whole),
    known(None, "disable-dollar-quoting", Nothing, Whole),
    known(None, "disable-triggers", Nothing, Whole),
    known(None, "use-set-session-authorization", Nothing, Whole),
    known(Some('f'), "file", Value, OUTPUT),
    known(Some('F'), "format", Value, OUTPUT),
    known(Some('j'), "jobs", Value, OUTPUT),
    known(Some('h'), "host", Value, CONNECTION),
    known(Some('p'), "port", Value, CONNECTION),
    known(Some('U'), "username", Value, CONNECTION),
    known(Some('d'), "dbname", Value, CONNECTION),
    known(Some('w'), "no-password", Nothing, CONNECTION),
    known(Some('W'), "password", Nothing, CONNECTION),
    known(None, "role", Value, ROLE),
    known(None, "snapshot", Value, SNAPSHOT),
    known(None, "no-synchronized-snapshots", Nothing, SNAPSHOT),
    known(None, "serializable-deferrable", Nothing, SNAPSHOT),
    known(Some('a'), "data-only", Nothing, DATA_ONLY),
    known(None, "no-schema", Nothing, DATA_ONLY),
    known(None, "section", Value, UNRESTORABLE),
    known(None, "statistics-only", Nothing, UNRESTORABLE),
    known(None, "binary-upgrade", Nothing, UNRESTORABLE),
    known(Some('E'), "encoding", Value, Instead::both("leave it out: the dump keeps the encoding of the database")),
    known(None, "enable-row-security", Nothing, ROW_SECURITY),
    known(Some('V'), "version", Nothing, NOTHING_DUMPED),
    known(Some('?'), "help", Nothing, NOTHING_DUMPED),
];

const UNKNOWN: &str = "write an option of pg_dump in full, such as --exclude-table-data=large_audit_table";

/// Reads the options as they were written at `place`.
pub fn parse(text: &str, place: Place) -> Result<ExtraOptions, Objection> {
    let mut words = split(text)?.into_iter();
    let mut reader = Reader { place, options: ExtraOptions::default() };
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let option = OPTIONS.iter().find(|option| option.long == name);
            let option = option.ok_or_else(|| unknown(&format!("--{name}")))?;
            let value = match (option.takes, value) {
                (Value, None) => words.next(),
                (_, value) => value,
            };
            reader.add(option, &format!("--{}", option.long), value)?;
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            reader.add_short(shorts, &mut words)?;
        } else {
            return Err(Objection { what: "it holds a word that is no option".to_owned(), instead: UNKNOWN });
        }
    }
    Ok(reader.options)
}

impl ExtraOptions {
    /// Whether they leave something out.
    pub fn is_filtered(&self) -> bool {
        !self.choosing.is_empty()
    }
}

struct Reader {
    place: Place,
    options: ExtraOptions,
}

impl Reader {
    /// `-vxn public`, `-vxnpublic`, `-Z6`: the first that takes a value takes the rest.
    fn add_short(&mut self, shorts: &str, words: &mut impl Iterator<Item = String>) -> Result<(), Objection> {
        for (at, short) in shorts.char_indices() {
            let option = OPTIONS.iter().find(|option| option.short == Some(short));
            let option = option.ok_or_else(|| unknown(&format!("-{short}")))?;
            let typed = format!("-{short}");
            if option.takes == Value {
                let rest = &shorts[at + short.len_utf8()..];
                let value = if rest.is_empty() { words.next() } else { Some(rest.to_owned()) };
                return self.add(option, &typed, value);
            }
            self.add(option, &typed, None)?;
        }
        Ok(())
    }

    fn add(&mut self, option: &Known, typed: &str, value: Option<String>) -> Result<(), Objection> {
        if let Refused(instead) = option.effect {
            return Err(Objection { what: format!("{typed} cannot be used"), instead: instead.at(self.place) });
        }
        if option.effect == Level && self.place == Place::CommandLine {
            return Err(Objection { what: format!("{typed} cannot be used"), instead: LEVEL_INSTEAD });
        }
        let word = match (option.takes, value) {
            (Nothing, None) => format!("--{}", option.long),
            (Value, Some(value)) if !value.is_empty() => {
                if option.effect == Level {
                    self.options.level = Some(level(&value)?);
                    return Ok(());
                }
                format!("--{}={value}", option.long)
            }
            (Nothing, Some(_)) => return Err(Objection { what: format!("{typed} takes no value"), instead: UNKNOWN }),
            (Value, _) => return Err(Objection { what: format!("{typed} needs a value"), instead: UNKNOWN }),
        };
        match option.effect {
            Filters => self.options.choosing.push(word),
            _ => self.options.words.push(word),
        }
        Ok(())
    }
}

/// `6` and `gzip:6`.
fn level(text: &str) -> Result<u8, Objection> {
    let digit = text.strip_prefix("gzip:").unwrap_or(text);
    let level = digit.parse().ok().filter(|level| *level <= 9 && digit.len() == 1);
    level.ok_or_else(|| Objection {
        what: "-Z has a value that is not 0 to 9".to_owned(),
        instead: "write -Z 6, or leave it out for 9",
    })
}

/// Only what looks like an option is repeated: the rest may be anything.
fn unknown(typed: &str) -> Objection {
    let plain = typed.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == ' ') && typed.len() <= 40;
    let typed = if plain { typed } else { "a word" };
    Objection { what: format!("{typed} is not an option that can be added"), instead: UNKNOWN }
}

fn split(text: &str) -> Result<Vec<String>, Objection> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (None, '\\') if characters.peek().is_some_and(|next| "\\'\" \t".contains(*next)) => {
                word.get_or_insert_default().extend(characters.next());
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                let word = word.get_or_insert_default();
                if c == '"' {
                    word.push(c);
                }
            }
            (Some(open), c) if c == open => {
                quote = None;
                if c == '"' {
                    word.get_or_insert_default().push(c);
                }
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Objection { what: "a quote is not closed".to_owned(), instead: "close it" });
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ExtraOptions, Objection> {
        super::parse(text, Place::EnvFile)
    }

    /// Those that leave nothing out, then the others.
    fn words(text: &str) -> Vec<String> {
        let options = parse(text).unwrap_or_else(|objection| panic!("{text:?}: {objection:?}"));
        [options.words, options.choosing].concat()
    }

    #[test]
    fn the_options_of_the_document_are_taken() {
        let options = parse("--exclude-table-data=large_audit_table").unwrap();
        assert_eq!(options.choosing, ["--exclude-table-data=large_audit_table"]);
        assert_eq!((options.level, options.is_filtered()), (None, true));
        for text in ["-Z 6", "-Z6", "--compress=6", "--compress 6", "-vZ6", "-Z 9 -Z 6", "-Z gzip:6"] {
            let options = parse(text).unwrap();
            assert_eq!((options.level, options.is_filtered()), (Some(6), false), "{text}");
        }
        assert_eq!(parse(" ").unwrap(), ExtraOptions::default());
    }

    #[test]
    fn every_way_to_write_an_option_is_read() {
        assert_eq!(
            words("-n public --schema other -N=x"),
            ["--schema=public", "--schema=other", "--exclude-schema==x"]
        );
        assert_eq!(
            words("-Oxv -vnpublic"),
            ["--no-owner", "--verbose", "--verbose", "--no-privileges", "--schema=public"]
        );
        assert_eq!(words("-T 'a b' -T a\\ b"), ["--exclude-table=a b", "--exclude-table=a b"]);
        // As the unquoted variable of a script: pg_dump sees the quotes of an exact name.
        assert_eq!(
            words(r#"-T "Audit Log" --exclude-table="Log""#),
            [r#"--exclude-table="Audit Log""#, r#"--exclude-table="Log""#]
        );
        assert!(!parse("-Ov --no-comments --lock-wait-timeout=5000").unwrap().is_filtered());
        for text in ["-Os", "-Ox", "--no-acl", "--no-policies", "--no-security-labels"] {
            assert!(parse(text).unwrap().is_filtered(), "{text}");
        }
    }

    #[test]
    fn what_pgkeep_decides_is_refused_by_name_with_the_next_step() {
        for refused in [
            "-f x",
            "--file=x",
            "-Fp",
            "--format=plain",
            "-j 4",
            "-h x",
            "-p 1",
            "-U x",
            "-d x",
            "--dbname=x",
            "-w",
            "-W",
            "--password",
            "--role=x",
            "--snapshot=x",
            "-a",
            "--data-only",
            "--section=data",
            "--enable-row-security",
            "-E LATIN1",
            "-V",
            "-?",
            "--help",
            "-vf x",
            "--serializable-deferrable",
        ] {
            let objection = parse(refused).expect_err(refused);
            assert!(objection.what.ends_with(" cannot be used"), "{refused}: {objection:?}");
            assert!(objection.what.starts_with('-') && !objection.instead.is_empty(), "{refused}: {objection:?}");
        }
    }

    #[test]
    fn nothing_unknown_passes() {
        // getopt would take the beginning of a name for the name.
        for wrong in [
            "--exclude-table-dat=x",
            "--fil=x",
            "--no-own",
            "shop",
            "-",
            "--",
            "-y",
            "--=x",
            "-Z",
            "-Z 10",
            "-Z zstd:3",
            "-Z -1",
            "-n",
            "--schema=",
            "--no-owner=x",
            "'",
            "\"--file=x\"",
            "-v shop",
            "--filé=x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("--hunter2$x").unwrap_err().what, "a word is not an option that can be added");
    }

    proptest! {
        #[test]
        fn only_complete_words_of_the_table_come_out(text in "[-a-zA-Z='\" \\\\0-9?]{0,30}") {
            if let Ok(options) = parse(&text) {
                for word in options.words {
                    let name = word.strip_prefix("--").unwrap().split('=').next().unwrap().to_owned();
                    let option = OPTIONS.iter().find(|option| option.long == name).unwrap();
                    prop_assert!(matches!(option.effect, Whole | Filters), "{}", word);
                    prop_assert_eq!(option.takes == Value, word.contains('='));
                }
            }
        }
    }
}
