//! What `restore dump` takes beside the backup and the server.

use std::path::PathBuf;

use clap::Args;

/// Which part is restored.
#[derive(Debug, Args)]
#[command(next_help_heading = "A part of the dump")]
pub struct PartArgs {
    /// Print what the archive holds, entry by entry, as pg_restore --list does, and restore nothing
    #[arg(long, conflicts_with_all = ["into", "to", "to_file", "dry_run"])]
    pub list: bool,

    /// Only this schema; may be repeated. Names are taken as they are, without patterns
    #[arg(short = 'n', long, value_name = "SCHEMA")]
    pub schema: Vec<String>,

    /// Only this table, view or sequence (NAME or SCHEMA.NAME) with its keys, indexes, triggers, partitions and own
    /// sequences; may be repeated
    #[arg(short = 't', long, value_name = "TABLE")]
    pub table: Vec<String>,

    /// Only the entries of this list, in its order: what --list prints, edited. `-` is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with_all = ["list", "to_file"])]
    pub use_list: Option<PathBuf>,
}

/// To whom things belong afterwards.
#[derive(Debug, Args)]
#[command(next_help_heading = "Owners and rights")]
pub struct RolesArgs {
    /// Everything belongs to the role that restores
    #[arg(short = 'O', long, conflicts_with = "to_file")]
    pub no_owner: bool,

    /// Leave out who was granted what
    #[arg(short = 'x', long, conflicts_with = "to_file")]
    pub no_privileges: bool,

    /// Give role NEW what OLD had: what it owned, its rights, default rights, policies, settings and memberships; may be
    /// repeated. An equals sign within a name is written twice
    #[arg(long, value_name = "OLD=NEW", conflicts_with = "to_file")]
    pub role_map: Vec<String>,

    /// Create missing roles without the passwords that the dump has for them
    #[arg(long)]
    pub no_role_passwords: bool,
}

/// What is done with a database that is there.
#[derive(Debug, Args)]
#[command(next_help_heading = "A database that is there")]
pub struct ExistingArgs {
    /// Restore into a database that holds something, beside what it holds, in one transaction; its owner, rights and
    /// settings stay
    #[arg(long, conflicts_with_all = ["replace", "to_file"])]
    pub into_existing: bool,

    /// As --into-existing, and drop what is restored first; takes --if-exists
    #[arg(long, requires = "if_exists", conflicts_with_all = ["replace", "to_file"])]
    pub clean: bool,

    /// What --clean drops may be missing
    #[arg(long, requires = "clean")]
    pub if_exists: bool,

    /// Restore under another name; then the database that is there is renamed to NAME_before_TIME, and the restored one
    /// gets its name, both in one transaction
    #[arg(long, conflicts_with = "to_file")]
    pub replace: bool,

    /// End the sessions that use the database which --replace renames
    #[arg(long, requires = "replace")]
    pub disconnect: bool,

    /// All or nothing in one transaction
    #[arg(short = '1', long, conflicts_with = "to_file")]
    pub single_transaction: bool,
}
