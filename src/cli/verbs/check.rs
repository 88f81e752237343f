//! `pgkeep check`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use pgkeep::command::check::{self, Options};
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::finding::Finding;
use pgkeep::command::{Context, Outcome};
use pgkeep::error::Result;

use crate::cli::arguments::CheckArgs;
use crate::cli::run::Screen;
use crate::cli::verbs::Request;

/// How many findings of one kind are printed; the JSON document has them all.
const SHOWN_OF_A_KIND: usize = 20;

pub async fn check(screen: &mut Screen, context: &Context, request: &Request, args: CheckArgs) -> ExitCode {
    let options = match options(context, request, args) {
        Ok(options) => options,
        Err(error) => return screen.fail(&error),
    };
    match check::run(context, &options).await {
        Ok(outcome) => screen.finish(&outcome, text),
        Err(error) => screen.fail(&error),
    }
}

fn options(context: &Context, request: &Request, args: CheckArgs) -> Result<Options> {
    Ok(Options {
        configuration: request.origin.clone(),
        instance: super::instance(request)?,
        repositories: super::opened_by(
            super::encrypted_to(request.repositories.clone(), &args.encryption),
            &args.identity,
        ),
        directories: request.drop_in.as_ref().map(DropIn::directories).unwrap_or_default(),
        connection: super::source_flags(request, &args.connection),
        connect_retry: args.connection.connect_retry,
        clients: super::clients(context, &args.connection),
        databases: super::databases(request, args.all, args.dbname),
    })
}

fn text(outcome: &Outcome<Finding>) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut text = String::new();
    for finding in &outcome.items {
        let count = counts.entry((finding.id, finding.severity.as_str())).or_default();
        *count += 1;
        if *count <= SHOWN_OF_A_KIND {
            text += &super::finding_text(finding);
        }
    }
    for ((id, severity), count) in counts.into_iter().filter(|(_, count)| *count > SHOWN_OF_A_KIND) {
        text += &format!("{severity:<4}  {id}: {} more, see --json\n", count - SHOWN_OF_A_KIND);
    }
    text
}
