//! Dumps of a part of a database: what is restored is not the database that was dumped, and some parts fit nowhere.

use super::Options;
use crate::error::{Error, Result};
use crate::repo::{DumpDetails, DumpManifest};

/// Refuses a dump that holds rows alone unless it goes into a database that may have tables for them.
/// Of another part it returns the warning that says what it is.
pub fn look(manifest: &DumpManifest, details: &DumpDetails, options: &Options) -> Result<Option<String>> {
    if !manifest.filtered {
        return Ok(None);
    }
    let (id, choice) = (&manifest.id, &details.choice);
    if choice.iter().any(|word| word == "--data-only") && !options.keeps_existing() {
        return Err(Error::refused(format!(
            "{id} was made with --data-only: it holds rows, and the tables for them are missing in a new or empty database"
        ))
        .hint(
            "name a database that has the tables, empty ones, and restore into it: --into DATABASE --into-existing",
        ));
    }
    let words = if choice.is_empty() { String::new() } else { format!(" ({})", choice.join(" ")) };
    let beside = match choice.iter().any(|word| word.starts_with("--table=")) {
        true => "; a schema, type or extension that its tables need and that is not among it is missing, and fails",
        false => "",
    };
    Ok(Some(format!("{id} holds a choice of the database{words}, not the whole{beside}")))
}
