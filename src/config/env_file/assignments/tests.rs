use std::os::unix::process::CommandExt as _;
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn environment() -> Environment {
    Environment::from_pairs([("HOME", "/home/ann"), ("OUTSIDE", "out side")])
}

fn read(text: &str) -> Read<Vec<(String, String)>> {
    let found = assignments(text, &environment())?;
    Ok(found.into_iter().map(|assignment| (assignment.name, assignment.value)).collect())
}

fn value(text: &str) -> String {
    let found = read(text).unwrap_or_else(|objection| panic!("{text:?}: {objection:?}"));
    found.last().unwrap_or_else(|| panic!("{text:?} sets nothing")).1.clone()
}

fn objection(text: &str) -> Objection {
    read(text).expect_err(text)
}

#[test]
fn plain_assignments_are_read() {
    let text = "# the database\n\nPG_HOST=127.0.0.1\n  export PG_USER=backup # why\nPG_PORT=5432; A=1 B=2\nexport A\n\
                export C=3 D='4 5'\nEMPTY=\n";
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [
        pair("PG_HOST", "127.0.0.1"),
        pair("PG_USER", "backup"),
        pair("PG_PORT", "5432"),
        pair("A", "1"),
        pair("B", "2"),
        pair("C", "3"),
        pair("D", "4 5"),
        pair("EMPTY", ""),
    ];
    assert_eq!(read(text).unwrap(), expected);
    assert_eq!(assignments(text, &environment()).unwrap()[1].line, 4);
}

#[test]
fn quotes_and_backslashes_are_those_of_bash() {
    assert_eq!(value("A='a b$c\"d\\'"), "a b$c\"d\\");
    assert_eq!(value(r#"A="a'b\"c\$d\\e\z""#), r#"a'b"c$d\e\z"#);
    assert_eq!(value(r"A=a\ b\'c\$"), "a b'c$");
    assert_eq!(value("A='it'\\''s'\"!\"$'\\t|\\'\\z'"), "it's!\t|'\\z");
    assert_eq!(value("A=a\\\nb"), "ab");
    assert_eq!(value("A='a\nb'\nB=\"c\nd\""), "c\nd");
    assert_eq!(value("A=a#b"), "a#b");
    assert_eq!(value("A=100% B=$ C=\"$\" D=a$"), "a$");
    assert_eq!(value("A=$\"a b\""), "a b");
}

#[test]
fn variables_are_those_of_earlier_lines_and_of_the_environment() {
    assert_eq!(value("BASE=/data\nLOG=$BASE/log"), "/data/log");
    assert_eq!(value("BASE=/data\nLOG=\"${BASE}s\""), "/datas");
    assert_eq!(value("A=$OUTSIDE"), "out side");
    assert_eq!(value("OUTSIDE=in\nA=$OUTSIDE"), "in");
    assert_eq!(value("A=a\nA+=b\nOUTSIDE+=!"), "out side!");
    assert_eq!(value("A=~/x:~"), "/home/ann/x:/home/ann");
    assert_eq!(value("A='~'/x~"), "~/x~");
}

#[test]
fn windows_line_ends_are_let_pass() {
    assert_eq!(read("\u{feff}A='b'\r\nC=d\r").unwrap(), read("A=b\nC=d").unwrap());
}

#[test]
fn what_would_be_run_is_an_error_with_its_line_and_without_the_value() {
    for wrong in [
        "A=$(hunter2)",
        "A=`hunter2`",
        "A=\"`hunter2`\"",
        "A=\"$(hunter2)\"",
        "A=$((1+hunter2))",
        "A=$[hunter2]",
        "hunter2",
        ". hunter2",
        "source hunter2",
        "set -a",
        "export",
        "export -p",
        "export -n A=hunter2",
        "declare A=hunter2",
        "readonly A=hunter2",
        "A=1 hunter2",
        "A=my hunter2",
        "A=1 && B=hunter2",
        "A=hunter2&2",
        "A=hunter2|x",
        "A=hunter2>x",
        "A=(hunter2)",
        "A[0]=hunter2",
        "1A=hunter2",
        "A =hunter2",
        "=hunter2",
        "A=1;;",
        "; A=1",
        "A=hunter2$hunter2",
        "A=hunter2$1",
        "A=${OUTSIDE:-hunter2}",
        "A=${OUTSIDE",
        "A=$$hunter2",
        "A=~hunter2/x",
        "A='hunter2",
        "A=\"hunter2\n\n",
        "A=$'hunter2",
        "A=$'\\x41hunter2'",
        "A=hunter2\\",
        "if true; then A=1; fi",
        "export A=1 'B=hunter2'",
    ] {
        let objection = objection(&format!("\n# first\n{wrong}"));
        assert_eq!(objection.line, 3, "{wrong:?}: {objection:?}");
        assert!(!format!("{objection:?}").contains("hunter2"), "{wrong:?}: {objection:?}");
    }
    let found = assignments("A=hunter2", &environment()).unwrap();
    assert_eq!(format!("{found:?}"), "[A on line 1]");
}

/// What bash has in `A`, `B` and `C` after it sourced the text under `set -eu`; none where that fails.
fn in_bash(text: &str) -> Option<Vec<Option<String>>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, text).unwrap();
    let script = "set -eu; PATH=; . \"$FILE\"; set +u; printf '%s\\0' \"${A+=$A}\" \"${B+=$B}\" \"${C+=$C}\"";
    let mut bash = Command::new("/bin/bash");
    bash.args(["--norc", "--noprofile", "-c", script]).arg0("bash").current_dir(folder.path());
    bash.env_clear().env("HOME", "/home/ann").env("OUTSIDE", "out side").env("FILE", &file).env("LC_ALL", "C.UTF-8");
    let output = bash.output().unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let fields: Vec<&str> = text.split_terminator('\0').collect();
    assert_eq!(fields.len(), 3, "{text:?}");
    Some(fields.iter().map(|field| field.strip_prefix('=').map(str::to_owned)).collect())
}

fn last_values(found: &[(String, String)]) -> Vec<Option<String>> {
    let last = |name: &str| found.iter().rev().find(|(set, _)| set == name).map(|(_, value)| value.clone());
    ["A", "B", "C"].into_iter().map(last).collect()
}

/// A piece of a value that a careful person writes.
fn plain_piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9_./:@%+,=-]{1,6}",
        "'[^'\r\0]{0,6}'",
        r#""[^"\\$`!\r\x00]{0,6}""#,
        r#""(\\[$`"\\]){0,2}""#,
        r"\\[^\r\n\x00]",
        Just("\\\n".to_owned()),
        Just("$HOME/".to_owned()),
        Just("${OUTSIDE}".to_owned()),
        Just("\"$OUTSIDE\"".to_owned()),
        Just("$'a\\n\\'\\t'".to_owned()),
        Just("~/".to_owned()),
        Just("你好".to_owned()),
    ]
}

fn plain_line() -> impl Strategy<Value = String> {
    let assignment = |prefix: &'static str| {
        (
            prop_oneof![Just("A"), Just("B"), Just("C")],
            prop_oneof![4 => Just("="), 1 => Just("+=")],
            prop::collection::vec(plain_piece(), 0..4),
        )
            .prop_map(move |(name, sign, pieces)| format!("{prefix}{name}{sign}{}", pieces.concat()))
    };
    prop_oneof![
        4 => assignment(""),
        2 => assignment("export "),
        1 => assignment("  "),
        1 => (assignment(""), assignment("")).prop_map(|(a, b)| format!("{a} {b}")),
        1 => (assignment(""), assignment("")).prop_map(|(a, b)| format!("{a}; {b} # comment")),
        1 => "#[^\r\n\0]{0,8}",
        1 => Just(String::new()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// A tilde in the middle is a sign; at the beginning of a value or after a colon it may name a user, which is an
    /// error here and depends on the host there.
    #[test]
    fn plain_files_are_read_as_bash_reads_them(lines in prop::collection::vec(plain_line(), 0..5)) {
        let text = lines.join("\n") + "\n";
        match read(&text) {
            Ok(found) => prop_assert_eq!(Some(last_values(&found)), in_bash(&text), "{:?}", text),
            Err(objection) => prop_assert!(objection.what.contains('~'), "{:?}: {:?}", text, objection),
        }
    }

    /// Whatever is accepted means the same to bash. The alphabet has no slash, so that nothing outside the folder of
    /// the test could be touched if something were run after all.
    #[test]
    fn what_is_accepted_means_the_same_to_bash(text in "([ABC]=)?[ABC=a1 \t\n;#'\"\\\\$~:{}()&|<>`!+-]{0,20}") {
        if let Ok(found) = read(&text) {
            prop_assert_eq!(Some(last_values(&found)), in_bash(&text), "{:?}", text);
        }
    }
}
