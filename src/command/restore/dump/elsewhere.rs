//! A target whose client programs run behind a prefix: they see no file of ours, and find the server by its name.

use std::num::NonZeroUsize;

use super::body::Form;
use super::target::Target;
use super::{Context, Options};
use crate::error::{Doing as _, Error, Kind, Result};

/// When the server started, in seconds: text that no setting of a session changes.
const STARTED: &str = "SELECT pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.numeric";

/// Refuses what cannot be done there, and programs that reach another server than the one that was looked at: it may have
/// a database of the same name.
pub async fn expect_usable(context: &Context, target: &Target, jobs: NonZeroUsize) -> Result<()> {
    if !target.tools.are_elsewhere() {
        return Ok(());
    }
    if jobs.get() > 1 {
        return Err(Error::usage("--jobs needs an archive that has a name, which there is none of behind bin_prefix")
            .hint("leave --jobs out, or restore with client programs of this host"));
    }
    let query = format!("{STARTED}::pg_catalog.text");
    let row = target.session().client().query_one(query.as_str(), &[]).await;
    let here: String = row.doing(Kind::Connect, || "ask when the server started")?.get(0);
    let database = &target.session().endpoint().dbname;
    let psql = target.client("psql")?.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"]);
    let psql = psql.arg(format!("--command={STARTED}")).arg(format!("--dbname={}", target.dbname_argument(database)));
    tracing::info!("{}", psql.command_line());
    let (answer, exit) = psql.output_unless(&context.interrupt, 4096).await?;
    exit.check()
        .map_err(|error| error.hint("behind bin_prefix the server must be reached by the host and port of conninfo"))?;
    if String::from_utf8_lossy(&answer).trim() == here {
        return Ok(());
    }
    let action = format!("behind bin_prefix {} is another server than here", target.address());
    Err(Error::refused(action).hint("name the server in conninfo so that here and there the same one is meant"))
}

/// Refuses what needs a file or a directory that those programs would have to see.
pub fn expect_no_file(target: &Target, options: &Options, form: Form) -> Result<()> {
    if !target.tools.are_elsewhere() || (options.part.is_all() && form != Form::Directory) {
        return Ok(());
    }
    let what = if form == Form::Directory { "a directory archive is" } else { "the list of a part is" };
    Err(Error::usage(format!("{what} read from files, which programs behind bin_prefix do not see"))
        .hint("restore with client programs of this host"))
}
