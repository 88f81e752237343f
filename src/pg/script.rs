//! SQL scripts as `pg_dumpall` writes them, taken apart into statements and words.
//!
//! A script is meant for `psql`, which obeys backslash commands. None is obeyed here: `\restrict` and `\unrestrict`,
//! which only tell `psql` not to obey others, are passed over, and any other is an error.

use std::fmt;

/// One statement without its semicolon: the words of it, comments left out.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement<'a> {
    pub tokens: Vec<Token<'a>>,
    source: &'a str,
}

impl<'a> Statement<'a> {
    /// The statement as it was written.
    pub fn text(&self) -> &'a str {
        self.source
    }

    /// Whether it begins with these keywords.
    pub fn begins(&self, keywords: &[&str]) -> bool {
        self.tokens.len() >= keywords.len()
            && self.tokens.iter().zip(keywords).all(|(token, keyword)| token.is_word(keyword))
    }
}

// It may hold a password.
impl fmt::Debug for Statement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Statement of {} tokens", self.tokens.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    kind: TokenKind,
    /// As written, quotes included.
    pub text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    /// A keyword, an unquoted name, a number.
    Word,
    QuotedName,
    Literal,
    Symbol,
}

impl Token<'_> {
    pub fn is_word(&self, keyword: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    pub fn is_literal(&self) -> bool {
        self.kind == TokenKind::Literal
    }

    /// The name that the token is, as the server has it.
    pub fn name(&self) -> Option<String> {
        match self.kind {
            TokenKind::Word => Some(self.text.to_ascii_lowercase()),
            TokenKind::QuotedName => Some(self.text.get(1..self.text.len() - 1)?.replace("\"\"", "\"")),
            TokenKind::Literal | TokenKind::Symbol => None,
        }
    }
}

/// Where a script stops making sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Nonsense {
    line: usize,
    what: &'static str,
}

/// Takes a script apart.
pub fn statements(script: &str) -> Result<Vec<Statement<'_>>, Nonsense> {
    let mut reader = Reader { script, at: 0 };
    let mut found = Vec::new();
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(next) = reader.next(tokens.is_empty())? {
        if tokens.is_empty() {
            start = reader.at - next.text.len();
        }
        if next.kind == TokenKind::Symbol && next.text == ";" {
            if !tokens.is_empty() {
                let source = script[start..reader.at - 1].trim_end();
                found.push(Statement { tokens: std::mem::take(&mut tokens), source });
            }
        } else {
            tokens.push(next);
        }
    }
    if tokens.is_empty() { Ok(found) } else { Err(reader.nonsense("the script ends inside a statement")) }
}

struct Reader<'a> {
    script: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.script[self.at..]
    }

    fn nonsense(&self, what: &'static str) -> Nonsense {
        Nonsense { line: self.script[..self.at].matches('\n').count() + 1, what }
    }

    /// Moves on by `length` bytes, which are a token.
    fn take(&mut self, kind: TokenKind, length: usize) -> Token<'a> {
        let text = &self.rest()[..length];
        self.at += length;
        Token { kind, text }
    }

    fn next(&mut self, between_statements: bool) -> Result<Option<Token<'a>>, Nonsense> {
        self.skip_blanks()?;
        while between_statements && self.skip_restriction() {
            self.skip_blanks()?;
        }
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(None) };
        Ok(Some(match first {
            '\\' => return Err(self.nonsense("a command for psql, which is not obeyed")),
            '\'' => {
                let length = self.quoted('\'', Backslash::Plain)?;
                self.take(TokenKind::Literal, length)
            }
            'e' | 'E' if rest[1..].starts_with('\'') => {
                self.at += 1;
                let length = self.quoted('\'', Backslash::Escapes)? + 1;
                self.at -= 1;
                self.take(TokenKind::Literal, length)
            }
            '"' => {
                let length = self.quoted('"', Backslash::Plain)?;
                self.take(TokenKind::QuotedName, length)
            }
            '$' if dollar_tag(rest).is_some() => {
                let tag = dollar_tag(rest).unwrap_or_default();
                let body = rest[tag.len()..].find(tag);
                let length = body.ok_or_else(|| self.nonsense("a dollar quote does not end"))? + 2 * tag.len();
                self.take(TokenKind::Literal, length)
            }
            c if is_word_part(c) => {
                let length = rest.find(|c| !is_word_part(c)).unwrap_or(rest.len());
                self.take(TokenKind::Word, length)
            }
            c => self.take(TokenKind::Symbol, c.len_utf8()),
        }))
    }

    fn skip_blanks(&mut self) -> Result<(), Nonsense> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            let rest = self.rest();
            if rest.starts_with("--") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += self.comment()?;
            } else {
                return Ok(());
            }
        }
    }

    /// The length of a comment, which may hold others.
    fn comment(&self) -> Result<usize, Nonsense> {
        let rest = self.rest();
        let (mut depth, mut at) = (0, 0);
        while at < rest.len() {
            let (step, change) = match &rest.as_bytes()[at..] {
                [b'/', b'*', ..] => (2, 1),
                [b'*', b'/', ..] => (2, -1),
                _ => (1, 0),
            };
            at += step;
            depth += change;
            if depth == 0 {
                return Ok(at);
            }
        }
        Err(self.nonsense("a comment does not end"))
    }

    fn skip_restriction(&mut self) -> bool {
        let rest = self.rest();
        let line = rest.lines().next().unwrap_or_default();
        let word = line.split(' ').next().unwrap_or_default();
        let found = matches!(word, "\\restrict" | "\\unrestrict");
        if found {
            self.at += line.len();
        }
        found
    }

    /// The length of a quotation that begins here.
    fn quoted(&self, quote: char, backslash: Backslash) -> Result<usize, Nonsense> {
        let mut inside = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = inside.next() {
            if c == '\\' && backslash == Backslash::Escapes {
                inside.next();
            } else if c == quote && inside.next_if(|(_, next)| *next == quote).is_none() {
                return Ok(at + 1);
            }
        }
        Err(self.nonsense("a quotation does not end"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Plain,
    Escapes,
}

fn is_word_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// `$$` or `$tag$` at the beginning of `text`.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 1;
    let tag = &text[1..end];
    let is_tag = !tag.starts_with(|c: char| c.is_ascii_digit()) && tag.chars().all(|c| c != '$' && is_word_part(c));
    is_tag.then(|| &text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<&str> {
        statements(script).unwrap().iter().map(Statement::text).collect()
    }

    #[test]
    fn semicolons_inside_quotations_end_nothing() {
        assert_eq!(
            texts("SELECT ';', E'\\';', \"a;\"\"b\", $$;$$, $x$ ; $$ ; $x$; /* ; /* ; */ ; */ -- ;\nSELECT 2 ;"),
            ["SELECT ';', E'\\';', \"a;\"\"b\", $$;$$, $x$ ; $$ ; $x$", "SELECT 2"]
        );
        assert_eq!(texts("SELECT 'it''s \\';"), ["SELECT 'it''s \\'"]);
        assert_eq!(texts("\n;;  \n"), Vec::<&str>::new());
    }

    #[test]
    fn a_script_of_pg_dumpall_is_read_past_its_restriction() {
        let script = "--\n-- dump\n--\n\n\\restrict abc\n\nSET client_encoding = 'UTF8';\n\n--\n-- Roles\n--\n\n\
                      CREATE ROLE \"Größe \"\"x\"\"\";\n\\unrestrict abc\n";
        let found = statements(script).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[1].begins(&["create", "ROLE"]));
        assert_eq!(found[1].tokens[2].name().unwrap(), "Größe \"x\"");
    }

    #[test]
    fn a_command_for_psql_is_refused() {
        for script in ["\\! rm -rf /\n", "SELECT 1 \\gexec\n", "\\restrictx\n", "SELECT 1;\n\\copy t from x\n"] {
            assert!(statements(script).unwrap_err().to_string().contains("psql"), "{script}");
        }
    }

    #[test]
    fn what_does_not_end_is_named_with_its_line() {
        assert_eq!(statements("SELECT 1;\nSELECT 'x").unwrap_err().to_string(), "line 2: a quotation does not end");
        assert!(statements("SELECT 1").is_err());
        assert!(statements("/* x").is_err());
        assert!(statements("SELECT $a$ x $b$;").is_err());
    }
}
