//! Roles, memberships and tablespaces: what lies in no database and is needed to restore one.

use bytes::Bytes;

use super::WantedGlobals;
use super::source::Source;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::process::Program;
use crate::repo::{GlobalsIncluded, Packing, pack};

/// More than a cluster with a million roles has.
const LIMIT_BYTES: u64 = 256 << 20;

pub struct Globals {
    /// SQL, packed as the archive is.
    pub body: Option<Bytes>,
    pub included: GlobalsIncluded,
    /// Why not, or why without passwords.
    pub reason: Option<String>,
    pub warning: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passwords {
    Include,
    LeaveOut,
}

/// `pg_dumpall --globals-only`; without passwords where the role may not read them, and then it says so.
pub async fn take(interrupt: &Interrupt, source: &Source, wanted: WantedGlobals, packing: Packing) -> Result<Globals> {
    if wanted == WantedGlobals::LeaveOut {
        let reason = Some("left out by --no-globals".to_owned());
        return Ok(Globals { body: None, included: GlobalsIncluded::NotIncluded, reason, warning: None });
    }
    // Asked, not guessed from a failure: any broken query of pg_dumpall names pg_authid.
    let passwords = if source.may_read_passwords().await? { Passwords::Include } else { Passwords::LeaveOut };
    let body = run(interrupt, source, passwords, packing).await.map_err(|error| match error.next_step() {
        // Who stopped the run knows why.
        None if error.kind == Kind::Tool => {
            error.hint("to dump without roles, memberships and tablespaces, use --no-globals")
        }
        _ => error,
    })?;
    let (included, reason) = match passwords {
        Passwords::Include => (GlobalsIncluded::WithPasswords, None),
        Passwords::LeaveOut => (GlobalsIncluded::WithoutPasswords, Some("the role may not read pg_authid".to_owned())),
    };
    let warning = reason.as_ref().map(|reason| {
        format!("globals are without passwords: {reason}; a superuser and members of pg_read_all_data may")
    });
    Ok(Globals { body: Some(body), included, reason, warning })
}

pub fn command(source: &Source, passwords: Passwords) -> Result<Program> {
    let program = source.client("pg_dumpall")?.arg("--globals-only");
    // What a restore reads is UTF-8, whatever the encoding of this database or of the role; SQL_ASCII has no conversion.
    let encoding = if source.encoding() == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" };
    let program = program.arg(format!("--encoding={encoding}"));
    let program = program.arg(format!("--database={}", source.dbname_argument()));
    Ok(match passwords {
        Passwords::Include => program,
        Passwords::LeaveOut => program.arg("--no-role-passwords"),
    })
}

async fn run(interrupt: &Interrupt, source: &Source, passwords: Passwords, packing: Packing) -> Result<Bytes> {
    let program = command(source, passwords)?;
    tracing::info!("{}", program.command_line());
    let (sql, exit) = program.output_unless(interrupt, LIMIT_BYTES).await?;
    exit.check().map_err(with_hint)?;
    // The last line that pg_dumpall writes: an output that was cut does not have it.
    if !String::from_utf8_lossy(&sql[sql.len().saturating_sub(200)..]).contains("dump complete") {
        return Err(Error::new(Kind::Tool, "pg_dumpall ended with exit code 0, and its output breaks off"));
    }
    pack(sql.into(), packing, "the globals")
}

/// pg_dumpall keeps to itself why it could not connect.
fn with_hint(error: Error) -> Error {
    if error.to_string().contains("could not connect to database") {
        return error.hint(
            "the server's log says why; pgkeep is connected itself, so look at the connection limits of the server, the \
             database and the role: a dump takes two connections",
        );
    }
    error
}
