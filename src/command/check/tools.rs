//! The client programs.

use crate::command::finding::Finding;
use crate::pg::tools::{Search, Tools};

/// The programs that dumps and restores run, and what is lost without each.
const PROGRAMS: [(&str, &str); 4] = [
    ("pg_dump", "no dump can be made"),
    ("pg_dumpall", "roles and tablespaces cannot be dumped"),
    ("pg_restore", "nothing can be restored into a server from here"),
    ("vacuumdb", "restored databases have no planner statistics"),
];

/// Every installed set of client programs, newest first.
pub async fn look(clients: &Search) -> Vec<Finding> {
    let installed = clients.installed().await;
    if installed.is_empty() {
        let finding = Finding::fail("tools.found", "pg_dump", "it is neither in PATH nor in /usr/lib/postgresql/*/bin");
        let fix = "install the PostgreSQL client programs (apt-get install postgresql-client), or use --bin-dir";
        return vec![finding.fix(fix)];
    }
    let mut findings: Vec<Finding> = Vec::new();
    for finding in installed.iter().flat_map(set) {
        // PATH often names a directory that is looked into anyway.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

fn set(tools: &Tools) -> Vec<Finding> {
    let place = match tools.program("pg_dump") {
        Ok(path) => path.display().to_string(),
        Err(error) => error.to_string(),
    };
    let mut findings = vec![Finding::ok("tools.found", place.as_str(), tools.version.to_string())];
    if let Some(safe) = tools.version.outdated() {
        let evidence =
            format!("{} is older than {safe}: a prepared database can run commands where it is dumped", tools.version);
        let fix = format!(
            "apt-get install --only-upgrade postgresql-client-{}, or install {safe} in another way",
            tools.version.major
        );
        findings.push(Finding::warn("tools.outdated", place.as_str(), evidence).fix(fix));
    }
    findings
}

/// The set that a server of this version is dumped with.
pub async fn chosen(clients: &Search, server_major: u32, subject: &str) -> Vec<Finding> {
    let tools = match clients.for_server(server_major).await {
        Ok(tools) => tools,
        Err(error) => return vec![Finding::of_error("tools.chosen", subject, &error)],
    };
    let path = tools.program("pg_dump").map(|path| path.display().to_string()).unwrap_or_default();
    let evidence = format!("PostgreSQL {server_major} is dumped with pg_dump {} ({path})", tools.version);
    let mut findings = vec![Finding::ok("tools.chosen", subject, evidence)];
    for (program, loss) in PROGRAMS {
        if let Err(error) = tools.program(program) {
            let finding = Finding::of_error("tools.missing", program, &error);
            let needed = matches!(program, "pg_dump" | "pg_dumpall");
            let severity = if needed { finding.severity } else { crate::command::finding::Severity::Warn };
            findings.push(Finding { severity, evidence: format!("{}: {loss}", finding.evidence), ..finding });
        }
    }
    findings
}
