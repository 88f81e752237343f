//! A script of SQL that passes by: whether it is whole, and whether it stays in its database.
//!
//! Nothing of it is run here. `psql` obeys it line by line, `\restrict` included, as it obeys it at a terminal.

use super::lexer::Lexer;
use crate::error::{Error, Kind, Result};

/// What `pg_dump` ends a script with.
const END: &str = "-- PostgreSQL database dump complete";
const BEGINNING: &str = "-- PostgreSQL database dump\n";
const OF_CLUSTER: &str = "-- PostgreSQL database cluster dump";

/// The end of the script is looked for in this many of its last bytes: `\unrestrict` and blank lines may follow it.
const TAIL_BYTES: usize = 1 << 10;

#[derive(Debug)]
pub struct Script {
    is_of_pg_dump: bool,
    lexer: Lexer,
    tail: Vec<u8>,
}

impl Script {
    /// `head` are its first bytes, which are read again.
    pub fn beginning(head: &[u8]) -> Result<Self> {
        let head = String::from_utf8_lossy(head);
        if head.contains(OF_CLUSTER) {
            return Err(Error::usage("it is a script of pg_dumpall, which holds a whole cluster")
                .hint("psql -X -v ON_ERROR_STOP=1 -d postgres -f FILE runs it on an empty cluster"));
        }
        Ok(Self { is_of_pg_dump: head.contains(BEGINNING), lexer: Lexer::default(), tail: Vec::new() })
    }

    pub fn read(&mut self, bytes: &[u8]) -> Result<()> {
        let from = bytes.len().saturating_sub(TAIL_BYTES);
        self.tail.extend_from_slice(&bytes[from..]);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        for byte in bytes {
            let line = self.lexer.line();
            if let Some(command) = self.lexer.read(*byte)
                && matches!(command.as_slice(), b"connect" | b"c")
            {
                return Err(leaves(line));
            }
        }
        Ok(())
    }

    /// What its user should know of it.
    pub fn finish(self) -> Result<Vec<String>> {
        if !self.lexer.does_something() {
            return Err(Error::new(Kind::Verification, "the script has nothing but comments")
                .hint("make a new dump, or use another copy"));
        }
        // psql takes the end of the file for the end of the rows, and is content.
        if self.lexer.is_in_data() {
            return Err(Error::new(Kind::Verification, "the script ends early, among the rows of a table")
                .hint("this script cannot be restored whole: make a new dump, or use another copy"));
        }
        if String::from_utf8_lossy(&self.tail).contains(END) {
            return Ok(Vec::new());
        }
        if self.is_of_pg_dump {
            return Err(Error::new(
                Kind::Verification,
                "the script ends early: the line that pg_dump ends with is missing",
            )
            .because(format!("{END:?} is not at its end"))
            .hint("this script cannot be restored whole: make a new dump, or use another copy"));
        }
        Ok(vec!["nothing tells whether the script is whole: it is none of pg_dump".to_owned()])
    }
}

fn leaves(line: u64) -> Error {
    Error::usage(format!("line {line} of the script connects to another database"))
        .because("what follows it would be restored there")
        .hint(
            "it was made with pg_dump --create: take the lines CREATE DATABASE and \\connect out, or run it by hand \
             with psql -X -v ON_ERROR_STOP=1",
        )
}

/// `-- Dumped by pg_dump version 15.18`
pub fn client_major(head: &[u8]) -> Option<u32> {
    let head = String::from_utf8_lossy(head);
    let version = head.lines().find_map(|line| line.strip_prefix("-- Dumped by pg_dump version "))?;
    version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(script: &str, piece_bytes: usize) -> Result<Vec<String>> {
        let mut reader = Script::beginning(script.as_bytes())?;
        script.as_bytes().chunks(piece_bytes).try_for_each(|piece| reader.read(piece))?;
        reader.finish()
    }

    #[test]
    fn a_script_is_whole_if_its_last_line_is_there() {
        let whole = format!("--\n{BEGINNING}--\n\\restrict x\nCREATE TABLE t ();\n--\n{END}\n--\n\n\\unrestrict x\n\n");
        let cut = &whole[..whole.len() - 60];
        for piece_bytes in [1, 3, 17, 4096] {
            assert_eq!(read(&whole, piece_bytes).unwrap(), Vec::<String>::new());
            assert!(read(cut, piece_bytes).unwrap_err().to_string().contains("ends early"));
            assert_eq!(read("CREATE TABLE t ();", piece_bytes).unwrap().len(), 1);
        }
        assert!(read(&format!("--\n{OF_CLUSTER}\n--\n"), 9).is_err());
    }

    #[test]
    fn rows_that_do_not_end_are_seen_without_the_last_line_of_pg_dump() {
        let whole = "CREATE TABLE t (a text);\nCOPY t FROM stdin;\none\ntwo\n\\.\n";
        for piece_bytes in [1, 5, 4096] {
            assert_eq!(read(whole, piece_bytes).unwrap().len(), 1);
            assert_eq!(read(whole.trim_end(), piece_bytes).unwrap().len(), 1);
            for cut in 1..=6 {
                let refused = read(&whole[..whole.len() - 2 - cut], piece_bytes).unwrap_err();
                assert!(refused.to_string().contains("among the rows"), "{cut} {refused}");
            }
        }
    }

    #[test]
    fn a_script_that_leaves_its_database_is_refused() {
        for line in ["\\connect shop\n", "\\c shop\n", "\\connect -reuse-previous=on \"dbname='x'\"\n"] {
            for piece_bytes in [1, 5, 4096] {
                let refused = read(&format!("CREATE TABLE t ();\n{line}"), piece_bytes);
                assert!(refused.unwrap_err().to_string().contains("line 2 of the script"), "{line}");
            }
        }
        for line in ["\\copy x\n", "\\cx\n", "SELECT '\n\\c x\n'"] {
            assert_eq!(read(&format!("SELECT 1; {line}"), 4).unwrap().len(), 1, "{line}");
        }
        assert_eq!(read("-- \n\n/* x */ --", 4).unwrap_err().kind, Kind::Verification);
    }

    #[test]
    fn the_program_that_wrote_it_is_told() {
        assert_eq!(client_major(b"--\n-- Dumped by pg_dump version 16.2 (Debian)\n"), Some(16));
        assert_eq!(client_major(b"SELECT 1"), None);
    }
}
