//! PostgreSQL: versions and tools, connections and sessions, the archive format of `pg_dump`.

pub mod archive;
pub mod conninfo;
pub mod database;
mod foreign;
pub mod ident;
pub mod password;
pub mod pattern;
pub mod replay;
pub mod script;
pub mod session;
pub mod tls;
pub mod tools;
pub mod tunnel;
