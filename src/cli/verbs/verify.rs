//! `pgkeep verify`.

use std::process::ExitCode;

use pgkeep::command::verify::{self, CopyItem, Depth, Finding, Item, Options, Wanted};
use pgkeep::command::{Context, Copy, Outcome, Status};
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
        instance: super::instance::named(request)?,
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
    let head = format!(
        "{}  {}  {}  {} read in {:.1} s\n",
        item.id,
        item.level.as_str(),
        verdict(item.status),
        bytes(item.read_bytes),
        item.duration_seconds
    );
    if item.repositories.len() < 2 {
        return item.findings.iter().fold(head, finding_text);
    }
    // What is wrong with the whole belongs to no copy.
    let text = item.findings.iter().filter(|finding| finding.repository.is_empty()).fold(head, finding_text);
    item.repositories.iter().fold(text, |text, copy| text + &copy_text(item, copy))
}

fn verdict(status: Status) -> &'static str {
    match status {
        Status::Ok => "passed",
        Status::Partial => "PASSED IN PART",
        Status::NotVerified => "not verified",
        Status::Failed => "FAILED",
    }
}

fn copy_text(item: &Item, copy: &CopyItem) -> String {
    let Copy { name, status, error, .. } = &copy.copy;
    let findings: Vec<&Finding> = item.findings.iter().filter(|finding| finding.repository == *name).collect();
    let why = match (findings.as_slice(), error) {
        ([], Some(error)) => format!(": {}", error.said_of(name)),
        _ => String::new(),
    };
    let head = format!("  {}: {}{}\n", harmless(name), verdict(*status), harmless(&why));
    findings.into_iter().fold(head, |text, finding| finding_text(text + "  ", finding))
}

fn finding_text(text: String, finding: &Finding) -> String {
    text + "  " + &harmless(&finding.message) + "\n"
}
