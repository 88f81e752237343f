//! The restored database gets its name: a free one, or that of a database in use, which gets another in the same
//! transaction. At every moment one of the two carries the name.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::Item;
use super::Sessions;
use super::server::Restorer;
use super::target::{has_oid, sessions_in};
use super::way::{Replaced, Way, in_use};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::ident::quote_ident;

/// Ends every other session of a database.
const END_SESSIONS: &str = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                             WHERE datname = $1::pg_catalog.text AND pid <> pg_catalog.pg_backend_pid()";

impl Restorer<'_> {
    pub(super) async fn rename(&self, client: &Client, unfinished: &str, name: &str) -> Result<()> {
        // Whoever looks into every database (a monitoring agent) may be in this one, too, and keep its name.
        if let Err(error) = client.query("SAVEPOINT others", &[]).await {
            return Err(error).doing(Kind::Tool, || "set a savepoint");
        }
        let forget = client.execute("SELECT pg_catalog.pg_stat_clear_snapshot()", &[]).await;
        forget.doing(Kind::Tool, || "look for sessions anew")?;
        if client.query(END_SESSIONS, &[&unfinished]).await.is_err() {
            // The rename says who is in the way.
            back_to(client, "others").await?;
        }
        rename(client, unfinished, name).await.map_err(|error| match error.code() {
            Some(&SqlState::DUPLICATE_DATABASE) => {
                Error::refused(format!("database {name:?} was created by somebody else during the restore"))
                    .hint("it was not touched; restore under another name with --into")
            }
            _ => Error::new(Kind::Tool, format!("rename database {unfinished:?} to {name:?}")).because(error),
        })
    }

    /// In a transaction that is open. Where the database in use keeps its name, the restored one gets one of its own:
    /// hours of work are not thrown away for a session; then the error says so, and is told after the commit.
    pub(super) async fn swap(&self, client: &Client, unfinished: &str, replaced: &Replaced) -> Result<Option<Error>> {
        let into = &self.plan.into;
        client.batch_execute("SAVEPOINT swap").await.doing(Kind::Tool, || "set a savepoint")?;
        let moved = match has_oid(client, into, replaced.oid).await? {
            true => self.move_away(client, replaced).await,
            false => Err(Error::refused(format!("database {into:?} is another one than when the restore began"))),
        };
        let Err(error) = moved else {
            self.rename(client, unfinished, into).await?;
            return Ok(None);
        };
        back_to(client, "swap").await?;
        self.rename(client, unfinished, &replaced.name_beside).await?;
        Ok(Some(error))
    }

    async fn move_away(&self, client: &Client, replaced: &Replaced) -> Result<()> {
        let (target, into) = (&self.plan.target, &self.plan.into);
        if replaced.sessions == Sessions::Respect && !sessions_in(client, into).await?.is_empty() {
            return Err(in_use(client, into).await?);
        }
        let renaming = rename(client, into, &replaced.name_after);
        let renamed = match replaced.sessions {
            Sessions::Respect => renaming.await,
            Sessions::End => {
                // The rename keeps new sessions out from its first moment and waits seconds for the old ones to go: so
                // they are ended while it waits, from another session.
                let other = target.session_in(None).await?;
                let renamed = tokio::select! {
                    biased;
                    renamed = renaming => renamed,
                    error = end_sessions(other.client(), into) => return Err(error),
                };
                other.close().await;
                renamed
            }
        };
        match renamed {
            Ok(()) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => {
                // The failed statement has ended the transaction as far as the savepoint.
                back_to(client, "swap").await?;
                Err(in_use(client, into).await?)
            }
            Err(error) => Err(error).doing(Kind::Tool, || format!("rename database {into:?}")),
        }
    }

    /// What became of the two names.
    pub(super) fn tell_of_swap(&self, item: &mut Item, stays_beside: Option<Error>) -> Result<()> {
        let Way::Create { replaces: Some(replaced), .. } = &self.plan.way else { return Ok(()) };
        let into = quote_ident(&self.plan.into);
        let (before, beside) = (quote_ident(&replaced.name_after), quote_ident(&replaced.name_beside));
        let Some(error) = stays_beside else {
            item.replaced = Some(replaced.name_after.clone());
            return Ok(());
        };
        item.kept_as = Some(replaced.name_beside.clone());
        Err(Error::new(Kind::Refused, format!("put the restored database in the place of {:?}", self.plan.into))
            .because(error)
            .hint(format!(
                "the restored one is whole and called {beside}; when nobody uses {into}: BEGIN; ALTER DATABASE {into} \
                 RENAME TO {before}; ALTER DATABASE {beside} RENAME TO {into}; COMMIT;"
            )))
    }
}

/// Ends sessions again and again, since one may have been about to begin; comes back only where it may not.
async fn end_sessions(client: &Client, database: &str) -> Error {
    loop {
        let ended = client.query(END_SESSIONS, &[&database]).await;
        let waited = match ended {
            Ok(_) => client.query_one("SELECT pg_catalog.pg_sleep(0.1)", &[]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = waited {
            return Error::refused(format!("end the sessions of database {database:?}"))
                .because(error)
                .hint("restore as a superuser, or as a member of the roles that use it");
        }
    }
}

async fn rename(client: &Client, from: &str, to: &str) -> Result<(), tokio_postgres::Error> {
    let sql = format!("ALTER DATABASE {} RENAME TO {}", quote_ident(from), quote_ident(to));
    client.batch_execute(&sql).await
}

async fn back_to(client: &Client, savepoint: &str) -> Result<()> {
    let sql = format!("ROLLBACK TO SAVEPOINT {savepoint}");
    client.batch_execute(&sql).await.doing(Kind::Tool, || "go back to the savepoint")
}
