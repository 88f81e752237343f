//! `pgkeep check`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use pgkeep::command::check::{self, Options};
use pgkeep::command::drop_in::DropIn;
use pgkeep::command::finding::{Finding, error_of};
use pgkeep::command::instance::Instance;
use pgkeep::command::{Context, Outcome};
use pgkeep::error::Result;

use crate::cli::arguments::CheckArgs;
use crate::cli::run::Screen;
use crate::cli::verbs::{Request, instance};

/// How many findings of one kind are printed; the JSON document has them all.
const SHOWN_OF_A_KIND: usize = 20;

pub async fn check(screen: &mut Screen, context: &Context, request: &Request, args: CheckArgs) -> ExitCode {
    let done = match args.all_instances {
        true => all(context, request, &args).await,
        false => match instance::one(request) {
            Ok(instance) => one(context, request, &args, &instance).await,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(outcome) => screen.finish(&outcome, text),
        Err(error) => screen.fail(&error),
    }
}

/// What is found for each instance; what several have in common is told once.
async fn all(context: &Context, request: &Request, args: &CheckArgs) -> Result<Outcome<Finding>> {
    let context = instance::surroundings(context);
    let mut findings: Vec<Finding> = Vec::new();
    for instance in instance::every(request)? {
        let found = match instance.expect_server() {
            Ok(()) => one(&context, request, args, &instance).await,
            Err(error) => Err(error),
        };
        let found = match found {
            Ok(outcome) => outcome.items,
            Err(error) if context.interrupt.is_requested() => return Err(error),
            Err(error) => vec![Finding::of_error("instance.unusable", instance.name.as_str(), &error)],
        };
        let of_instance = found.into_iter().map(|finding| finding.of_instance(instance.name.as_str()));
        for finding in of_instance {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    Ok(Outcome { error: error_of(&findings), items: findings, warnings: Vec::new() })
}

async fn one(context: &Context, request: &Request, args: &CheckArgs, instance: &Instance) -> Result<Outcome<Finding>> {
    let mut options = options(context, request, args, instance)?;
    let reached = match instance.reach(context, options.connect_retry).await {
        Ok(reached) => reached,
        Err(error) if context.interrupt.is_requested() => return Err(error),
        Err(error) => {
            let findings = vec![Finding::of_error("postgres.tunnel", instance.name.as_str(), &error)];
            return Ok(Outcome { error: error_of(&findings), items: findings, warnings: Vec::new() });
        }
    };
    if request.drop_in.is_none() {
        options.connection.instance = reached.server.clone();
    }
    let done = check::run(&reached.context, &options).await;
    reached.leave().await;
    done
}

fn options(context: &Context, request: &Request, args: &CheckArgs, instance: &Instance) -> Result<Options> {
    Ok(Options {
        configuration: request.origin.clone(),
        instance: instance.name.clone(),
        repositories: match super::all_repositories(request) {
            Ok(_) => instance::repositories(request, instance)?,
            // Without one, what else there is is checked.
            Err(_) => Vec::new(),
        },
        directories: request.drop_in.as_ref().map(DropIn::directories).unwrap_or_default(),
        connection: super::source_flags(request, &args.connection, instance),
        connect_retry: args.connection.connect_retry,
        clients: super::clients(context, &args.connection, instance),
        databases: super::databases(request, args.all, args.dbname.clone(), instance),
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
