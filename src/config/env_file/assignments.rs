//! The assignments of a file, as bash reads them when a script sources it under `set -u`.
//!
//! Read are `NAME=value`, `NAME+=value` and `export NAME=value`, several on a line too; quotes `'…'`, `"…"` and
//! `$'…'`, backslashes, continued lines, comments, `$NAME` and `${NAME}` of earlier lines and of the environment, and
//! `~` for the home directory. Line ends may be those of Windows. Everything that would run or choose something
//! (commands, substitutions, arithmetic, arrays, redirections) is an error with its line. No error repeats a word of the
//! file: it may be half of a password that was not quoted.

use std::collections::BTreeMap;

use crate::config::environment::Environment;

/// `name` gets `value` on this line, counted from 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Assignment {
    pub name: String,
    pub value: String,
    pub line: usize,
}

/// What cannot be read, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    pub line: usize,
    pub what: String,
    pub instead: &'static str,
}

type Read<T> = Result<T, Objection>;

/// All assignments in order. `environment` is where `$NAME` is looked up that no earlier line has set.
pub fn assignments(text: &str, environment: &Environment) -> Read<Vec<Assignment>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let text = text.strip_suffix('\r').unwrap_or(&text);
    let mut reader = Reader { rest: text, line: 1, environment, set: BTreeMap::new(), found: Vec::new() };
    reader.commands()?;
    Ok(reader.found)
}

const SINGLE_QUOTES: &str = "put the value into single quotes: NAME='…'";
const WRITE_OUT: &str = "write the value itself: nothing in this file is run";

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    environment: &'a Environment,
    /// The values so far.
    set: BTreeMap<String, String>,
    found: Vec<Assignment>,
}

impl Reader<'_> {
    fn object<T>(&self, what: impl Into<String>, instead: &'static str) -> Read<T> {
        Err(Objection { line: self.line, what: what.into(), instead })
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn skip(&mut self) {
        self.next();
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            self.rest = &self.rest[text.len()..];
            self.line += text.matches('\n').count();
        }
        found
    }

    /// Takes the longest name of a variable that stands here; empty if none does.
    fn name(&mut self) -> String {
        let is_name = |(at, c): &(usize, char)| c.is_ascii_alphabetic() || *c == '_' || (*at > 0 && c.is_ascii_digit());
        let name: String = self.rest.char_indices().take_while(is_name).map(|(_, c)| c).collect();
        self.rest = &self.rest[name.len()..];
        name
    }

    fn blanks(&mut self) {
        while self.take(" ") || self.take("\t") || self.take("\\\n") {}
    }

    /// Everything up to the end of the file.
    fn commands(&mut self) -> Read<()> {
        loop {
            self.blanks();
            match self.peek() {
                None => return Ok(()),
                Some('\n') => self.skip(),
                Some('#') => self.comment(),
                Some(_) => self.command()?,
            }
        }
    }

    fn comment(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }

    /// One line of assignments, or `export` and what it names, up to the newline or `;` after it.
    fn command(&mut self) -> Read<()> {
        let exports = ["export ", "export\t"].iter().any(|word| self.take(word));
        // `export` without a name prints the variables, and a `;` ends something.
        let mut count = 0;
        loop {
            self.blanks();
            match self.peek() {
                None | Some('\n') if count > 0 => return Ok(()),
                Some(';') if count > 0 => {
                    self.next();
                    return match self.peek() {
                        Some(';') => self.object("holds \";;\"", WRITE_OUT),
                        _ => Ok(()),
                    };
                }
                Some('#') if count > 0 => {
                    self.comment();
                    return Ok(());
                }
                _ => self.assignment(exports)?,
            }
            count += 1;
        }
    }

    fn assignment(&mut self, exported: bool) -> Read<()> {
        let line = self.line;
        let name = self.name();
        let appends = !name.is_empty() && self.take("+=");
        if !appends && (name.is_empty() || !self.take("=")) {
            let ends = matches!(self.peek(), None | Some(' ' | '\t' | '\n' | ';'));
            if exported && ends && !name.is_empty() {
                return Ok(());
            }
            return match self.peek() {
                Some('[') if !name.is_empty() => self.object("assigns to an array", WRITE_OUT),
                _ => self.object(
                    "holds something else than an assignment: a command, or a value with a blank or sign outside quotes",
                    SINGLE_QUOTES,
                ),
            };
        }
        if self.peek() == Some('(') {
            return self.object("assigns an array", WRITE_OUT);
        }
        let word = self.word()?;
        let value = match self.set.get(&name).map(String::as_str).or_else(|| self.environment.get(&name)) {
            Some(before) if appends => before.to_owned() + &word,
            _ => word,
        };
        self.set.insert(name.clone(), value.clone());
        self.found.push(Assignment { name, value, line });
        Ok(())
    }

    /// A value, up to the blank, newline or `;` that ends it.
    fn word(&mut self) -> Read<String> {
        let mut value = String::new();
        let mut tilde_here = true;
        loop {
            let tilde_may_stand = std::mem::replace(&mut tilde_here, false);
            match self.peek() {
                None | Some(' ' | '\t' | '\n' | ';') => return Ok(value),
                Some('&' | '|' | '<' | '>' | '(' | ')') => {
                    return self.object("holds one of & | < > ( ) outside quotes", SINGLE_QUOTES);
                }
                Some('\\') => {
                    self.next();
                    match self.next() {
                        // The line goes on; what stood before the backslash still does.
                        Some('\n') => tilde_here = tilde_may_stand,
                        Some(c) => value.push(c),
                        None => return self.object("ends in a backslash", SINGLE_QUOTES),
                    }
                }
                Some('\'') => self.single_quoted(&mut value)?,
                Some('"') => self.double_quoted(&mut value)?,
                Some('~') if tilde_may_stand => self.tilde(&mut value)?,
                Some('$' | '`') => self.dollar(&mut value, Place::Bare)?,
                Some(c) => {
                    self.next();
                    value.push(c);
                    tilde_here = c == ':';
                }
            }
        }
    }

    fn single_quoted(&mut self, value: &mut String) -> Read<()> {
        let Some((text, _)) = self.rest[1..].split_once('\'') else {
            return self.object("opens a single quote that is not closed", "close it, or write '\\'' for a quote");
        };
        value.push_str(text);
        self.line += text.matches('\n').count();
        self.rest = &self.rest[text.len() + 2..];
        Ok(())
    }

    fn double_quoted(&mut self, value: &mut String) -> Read<()> {
        let opened = self.line;
        self.next();
        loop {
            match self.peek() {
                None => {
                    self.line = opened;
                    return self
                        .object("opens a double quote that is not closed", "close it, or write \\\" for a quote");
                }
                Some('"') => {
                    self.next();
                    return Ok(());
                }
                Some('\\') => {
                    self.next();
                    match self.peek() {
                        Some(c @ ('$' | '`' | '"' | '\\')) => {
                            self.next();
                            value.push(c);
                        }
                        Some('\n') => self.skip(),
                        _ => value.push('\\'),
                    }
                }
                Some('$' | '`') => self.dollar(value, Place::Quoted)?,
                Some(c) => {
                    self.next();
                    value.push(c);
                }
            }
        }
    }

    /// What begins with `$`, or a backquote.
    fn dollar(&mut self, value: &mut String, place: Place) -> Read<()> {
        if self.next() == Some('`') {
            return self.object("holds a command in backquotes", WRITE_OUT);
        }
        match self.peek() {
            Some('(' | '[') => self.object("holds $(…), $((…)) or $[…]", WRITE_OUT),
            Some('{') => {
                self.next();
                let name = self.name();
                if name.is_empty() || !self.take("}") {
                    return self.object(
                        "holds ${…} with more than a name in it",
                        "write the value itself; a variable of the environment has precedence anyway",
                    );
                }
                self.variable(&name, value)
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.name();
                self.variable(&name, value)
            }
            Some(c) if c.is_ascii_digit() || "@*#?-$!".contains(c) => {
                self.object("holds $ and a sign or digit, which the shell would replace", SINGLE_QUOTES)
            }
            Some('\'') if place == Place::Bare => self.escaped(value),
            // `$"…"` is a text that could be translated.
            Some('"') if place == Place::Bare => self.double_quoted(value),
            _ => {
                value.push('$');
                Ok(())
            }
        }
    }

    fn variable(&self, name: &str, value: &mut String) -> Read<()> {
        match self.set.get(name).map(String::as_str).or_else(|| self.environment.get(name)) {
            Some(text) => {
                value.push_str(text);
                Ok(())
            }
            // The name may be the second half of a password with a dollar in it.
            None => self.object("uses a variable that is set neither before it nor in the environment", SINGLE_QUOTES),
        }
    }

    /// `$'…'` from its first quote on.
    fn escaped(&mut self, value: &mut String) -> Read<()> {
        let opened = self.line;
        self.next();
        loop {
            match self.next() {
                None => {
                    self.line = opened;
                    return self.object("opens $'…' and does not close it", "close it, or write \\' for a quote");
                }
                Some('\'') => return Ok(()),
                Some('\\') => match self.next() {
                    Some('a') => value.push('\u{7}'),
                    Some('b') => value.push('\u{8}'),
                    Some('e' | 'E') => value.push('\u{1b}'),
                    Some('f') => value.push('\u{c}'),
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some('v') => value.push('\u{b}'),
                    Some(c @ ('\\' | '\'' | '"' | '?')) => value.push(c),
                    Some('0'..='9' | 'x' | 'u' | 'U' | 'c') => {
                        return self.object("holds a character by its number in $'…'", "write the character itself");
                    }
                    Some(c) => value.extend(['\\', c]),
                    None => {}
                },
                Some(c) => value.push(c),
            }
        }
    }

    /// `~` at the beginning of a value or after a `:` in it.
    fn tilde(&mut self, value: &mut String) -> Read<()> {
        self.next();
        let home = self.set.get("HOME").map(String::as_str).or_else(|| self.environment.home()?.to_str());
        match (self.peek(), home) {
            (None | Some('/' | ':' | ' ' | '\t' | '\n' | ';'), Some(home)) => {
                value.push_str(home);
                Ok(())
            }
            _ => self.object("holds ~ and the name of a user, or there is no home directory", "write the path itself"),
        }
    }
}

/// Where a dollar stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Bare,
    Quoted,
}

// A value may be a password.
impl std::fmt::Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on line {}", self.name, self.line)
    }
}

#[cfg(test)]
mod tests;
