//! As much of psql's reading of a script as tells its own commands from what looks like them: literals, quoted names,
//! dollar quotes, comments and data of COPY may hold any line.

/// Longer words are none that matter here.
const WORD_BYTES: usize = 16;

/// Reads a script byte by byte.
#[derive(Debug, Default)]
pub struct Lexer {
    state: State,
    /// The one under way.
    word: Vec<u8>,
    previous_word: Vec<u8>,
    statement: Statement,
    /// The byte before, in the same state.
    previous: u8,
    lines: u64,
    does_something: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Normal,
    /// In a literal; with `E` before it a backslash takes the next byte.
    Literal {
        escapes: bool,
        taken: bool,
    },
    /// Behind the quote that may have ended a literal: a second one continues it.
    BehindLiteral {
        escapes: bool,
    },
    Name,
    /// `$` and what may become a tag.
    Tag(Vec<u8>),
    /// The whole delimiter, and the last bytes that were read.
    Dollar {
        delimiter: Vec<u8>,
        last: Vec<u8>,
    },
    LineComment,
    BlockComment(u32),
    /// A command of psql, up to its name's end.
    Command(Vec<u8>),
    CommandRest,
    /// The beginning of a line of data.
    Data(Vec<u8>),
    DataRest,
}

#[derive(Debug, Default)]
struct Statement {
    begins_with_copy: bool,
    has_words: bool,
    from_stdin: bool,
    /// Data follow on the next line.
    reads_data: bool,
}

impl Lexer {
    /// Whether there was anything but comments and blanks.
    pub fn does_something(&self) -> bool {
        self.does_something
    }

    /// Whether rows of a COPY are under way, which only `\.` ends.
    pub fn is_in_data(&self) -> bool {
        match &self.state {
            State::DataRest => true,
            State::Data(line) => !line.starts_with(b"\\."),
            _ => false,
        }
    }

    /// The number of the line under way.
    pub fn line(&self) -> u64 {
        self.lines + 1
    }

    /// Takes the next byte; the name of a command of psql once it is whole.
    pub fn read(&mut self, byte: u8) -> Option<Vec<u8>> {
        let mut command = None;
        let state = std::mem::take(&mut self.state);
        self.state = match state {
            State::Normal => self.normal(byte),
            State::Literal { escapes, taken: true } => State::Literal { escapes, taken: false },
            State::Literal { escapes, .. } => match byte {
                b'\'' => State::BehindLiteral { escapes },
                byte => State::Literal { escapes, taken: escapes && byte == b'\\' },
            },
            State::BehindLiteral { escapes } if byte == b'\'' => State::Literal { escapes, taken: false },
            State::BehindLiteral { .. } => self.normal(byte),
            State::Name if byte == b'"' => State::Normal,
            State::Name => State::Name,
            State::Tag(tag) => self.tag(tag, byte),
            State::Dollar { delimiter, mut last } => {
                last.push(byte);
                if last.len() > delimiter.len() {
                    last.remove(0);
                }
                if last == delimiter { State::Normal } else { State::Dollar { delimiter, last } }
            }
            State::LineComment if byte == b'\n' => self.normal(byte),
            State::LineComment => State::LineComment,
            State::BlockComment(depth) => self.block_comment(depth, byte),
            State::Command(mut name) => {
                if !byte.is_ascii_whitespace() && name.len() < WORD_BYTES {
                    name.push(byte);
                    State::Command(name)
                } else {
                    command = Some(name);
                    if byte == b'\n' { self.normal(byte) } else { State::CommandRest }
                }
            }
            State::CommandRest if byte == b'\n' => self.normal(byte),
            State::CommandRest => State::CommandRest,
            State::Data(line) => data(line, byte),
            State::DataRest if byte == b'\n' => State::Data(Vec::new()),
            State::DataRest => State::DataRest,
        };
        self.previous = byte;
        self.lines += u64::from(byte == b'\n');
        command
    }

    fn normal(&mut self, byte: u8) -> State {
        let ends_word = !is_word_part(byte);
        if !ends_word {
            if self.word.len() <= WORD_BYTES {
                self.word.push(byte.to_ascii_uppercase());
            }
            self.does_something = true;
            return State::Normal;
        }
        let word = std::mem::take(&mut self.word);
        if !word.is_empty() {
            self.statement.word(&word, &self.previous_word);
            self.previous_word.clone_from(&word);
        }
        match byte {
            b'\'' => State::Literal { escapes: word == b"E", taken: false },
            b'"' => State::Name,
            b'$' if word.is_empty() => State::Tag(Vec::new()),
            b'-' if self.previous == b'-' => State::LineComment,
            b'*' if self.previous == b'/' => {
                self.previous = 0;
                State::BlockComment(1)
            }
            b'\\' => State::Command(Vec::new()),
            b'\n' if std::mem::take(&mut self.statement.reads_data) => State::Data(Vec::new()),
            b';' => {
                let reads_data = self.statement.begins_with_copy && self.statement.from_stdin;
                self.statement = Statement { reads_data, ..Statement::default() };
                State::Normal
            }
            byte => {
                // A dash or slash may begin a comment; if it does not, words around it tell.
                self.does_something |= !byte.is_ascii_whitespace() && !matches!(byte, b'-' | b'/');
                State::Normal
            }
        }
    }

    fn tag(&mut self, mut tag: Vec<u8>, byte: u8) -> State {
        if byte == b'$' {
            let delimiter = [b"$", tag.as_slice(), b"$"].concat();
            return State::Dollar { delimiter, last: Vec::new() };
        }
        // `$1` is a parameter.
        if is_word_part(byte) && !(tag.is_empty() && byte.is_ascii_digit()) && tag.len() < 64 {
            tag.push(byte);
            return State::Tag(tag);
        }
        self.normal(byte)
    }

    fn block_comment(&mut self, depth: u32, byte: u8) -> State {
        let depth = match (self.previous, byte) {
            (b'/', b'*') => depth + 1,
            (b'*', b'/') => depth - 1,
            _ => return State::BlockComment(depth),
        };
        // A slash that ends one comment begins no other.
        self.previous = 0;
        if depth == 0 { State::Normal } else { State::BlockComment(depth) }
    }
}

impl Statement {
    fn word(&mut self, word: &[u8], previous: &[u8]) {
        if !self.has_words {
            self.has_words = true;
            self.begins_with_copy = word == b"COPY";
        }
        self.from_stdin |= word == b"STDIN" && previous == b"FROM";
    }
}

/// `\.` alone ends the data.
fn data(mut line: Vec<u8>, byte: u8) -> State {
    if byte != b'\n' {
        line.push(byte);
        return if b"\\.\r".starts_with(&line) { State::Data(line) } else { State::DataRest };
    }
    match line.as_slice() {
        b"\\." | b"\\.\r" => State::Normal,
        _ => State::Data(Vec::new()),
    }
}

fn is_word_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(script: &str) -> Vec<String> {
        let mut lexer = Lexer::default();
        let found = script.bytes().filter_map(|byte| lexer.read(byte));
        found.map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn commands_are_told_from_what_looks_like_them() {
        assert_eq!(
            commands("\\restrict x\nSELECT 1;\n\\connect shop\nSELECT 2 \\gexec\n"),
            ["restrict", "connect", "gexec"]
        );
        for hidden in [
            "SELECT '\n\\connect x\n';\n",
            "SELECT 'it''s\n\\connect x\n';\n",
            "SELECT E'it\\'s\n\\connect x\n''\n\\c y\n';\n",
            "SELECT \"a\n\\connect x\n\";\n",
            "CREATE FUNCTION f() AS $$\n\\connect x\n'$$;\n",
            "DO $x$\n$$\n\\connect x\n$y$\n$x$;\n",
            "-- it's\n/* \" /* \n\\connect x\n*/ \n\\c y\n*/\n",
            "COPY t (a) FROM stdin;\n\\connect x\n'\n\\.x\n\\.\n",
            "COPY \"t;\" (a) FROM stdin WITH (FORMAT csv);\n\\c x\n\\.\n",
        ] {
            assert_eq!(commands(hidden), Vec::<String>::new(), "{hidden}");
            assert_eq!(commands(&format!("{hidden}\\c x\n")), ["c"], "{hidden}");
        }
        // What only looks like the beginning of something.
        for shown in [
            "SELECT a$b, $1, 3 - -1, 4 / 5;\n\\c x\n",
            "SELECT 'x' AS \"y\";\n\\c x\n",
            "COPY t FROM '/tmp/x';\n\\c x\n",
            "SELECT '\\';\n\\c x\n",
            "/* a */ SELECT 1; -- b\n\\c x\n",
        ] {
            assert_eq!(commands(shown), ["c"], "{shown}");
        }
    }
}
