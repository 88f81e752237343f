//! What of a database is dumped.

use clap::Args;

/// Patterns are those of pg_dump: * and ? are wildcards, letters are folded to lower case except in double quotes.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is dumped (less than the whole database never counts as its backup)")]
pub struct ChoiceArgs {
    /// Only schemas that match; may be repeated
    #[arg(short = 'n', long, value_name = "PATTERN")]
    pub schema: Vec<String>,

    /// Not the schemas that match; may be repeated
    #[arg(short = 'N', long, value_name = "PATTERN")]
    pub exclude_schema: Vec<String>,

    /// Only tables, views and sequences that match; may be repeated
    #[arg(short = 't', long, value_name = "PATTERN")]
    pub table: Vec<String>,

    /// Not the tables that match; may be repeated
    #[arg(short = 'T', long, value_name = "PATTERN")]
    pub exclude_table: Vec<String>,

    /// Not the rows of tables that match; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude_table_data: Vec<String>,

    /// Rows only, for tables that exist already
    #[arg(long)]
    pub data_only: bool,

    /// Definitions only, no rows
    #[arg(long)]
    pub schema_only: bool,

    /// Leave out rights (GRANT, REVOKE)
    #[arg(long, alias = "no-acl")]
    pub no_privileges: bool,

    /// Leave out large objects
    #[arg(long, alias = "no-blobs")]
    pub no_large_objects: bool,

    /// Dump large objects although schemas or tables are chosen
    #[arg(long, alias = "blobs")]
    pub large_objects: bool,

    /// Write rows as INSERT commands: slow, and readable by other databases
    #[arg(long)]
    pub inserts: bool,

    /// Write rows as INSERT commands that name the columns
    #[arg(long)]
    pub column_inserts: bool,

    /// More options for pg_dump, split as a shell does it: --extra-opts='--no-comments -e hstore'; may be repeated.
    /// Those that say where the dump goes, in which form, or from which server are refused
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub extra_opts: Vec<String>,
}
