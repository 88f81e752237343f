//! `pgkeep verify`.

use std::process::ExitCode;

use pgkeep::command::verify::{self, Depth, Item, Options, Wanted};
use pgkeep::command::{Context, Outcome, Status};
use pgkeep::error::Result;
use pgkeep::repo::Which;

use crate::cli::arguments::VerifyArgs;
use crate::cli::output::{bytes, harmless};
use crate::cli::run::Screen;
use crate::cli::verbs::Request;

pub async fn verify(screen: &mut Screen, context: &Context, request: &Request, args: VerifyArgs) -> ExitCode {
    let options = match options(request, &args) {
        Ok(options) => options,
        Err(error) => return screen.fail(&error),
    };
    match verify::run(context, &options).await {
        Ok(outcome) => screen.finish(&outcome, text),
        Err(error) => screen.fail(&error),
    }
}

fn options(request: &Request, args: &VerifyArgs) -> Result<Options> {
    Ok(Options {
        repositories: super::repositories(request)?,
        instance: super::named_instance(request)?,
        database: args.dbname.clone(),
        wanted: match &args.id {
            Some(id) => Wanted::One(Which::from(id.as_str())),
            None if args.all => Wanted::All,
            None => Wanted::LatestOfEach,
        },
        depth: if args.deep { Depth::Decoded } else { Depth::Stored },
        threads: super::threads(None),
    })
}

fn text(outcome: &Outcome<Item>) -> String {
    outcome.items.iter().map(item_text).collect()
}

fn item_text(item: &Item) -> String {
    let verdict = match item.status {
        Status::Ok => "passed",
        Status::NotVerified => "not verified",
        Status::Partial | Status::Failed => "FAILED",
    };
    let head = format!(
        "{}  {}  {verdict}  {} read in {:.1} s\n",
        item.id,
        item.level.as_str(),
        bytes(item.read_bytes),
        item.duration_seconds
    );
    item.findings.iter().fold(head, |text, finding| text + "  " + &harmless(&finding.message) + "\n")
}
