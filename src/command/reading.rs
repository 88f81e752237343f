//! What the repositories that a command is told of hold together. One that cannot be asked is named and does not keep
//! the others from being read; only if none answers the command fails.

use futures_util::future::join_all;

use super::{Context, Place};
use crate::error::{Error, Kind, Result};
use crate::repo::{Catalogue, InstanceName, Repository, Union};

/// What the named repositories hold, backup by backup.
#[derive(Debug)]
pub struct Reading {
    pub union: Union,
    pub repositories: Repositories,
}

/// The repositories that a command is told of.
#[derive(Debug)]
pub struct Repositories {
    /// Those that answer, in the order in which they are named. Never empty.
    pub answering: Vec<Repository>,
    pub unread: Vec<Unread>,
}

/// A repository that could not be asked, and why.
#[derive(Debug)]
pub struct Unread {
    /// What its user calls it.
    pub name: String,
    pub error: Error,
}

impl Unread {
    fn told(&self) -> String {
        format!("{}: {}", self.name, self.error.said_of(&self.name))
    }
}

impl Reading {
    /// Reads the manifests of one instance, or of all, in every repository at once. Fails if none can be read.
    pub async fn of(context: &Context, places: &[Place], instance: Option<&InstanceName>) -> Result<Self> {
        let mut repositories = Repositories::open(context, places).await?;
        let catalogues =
            repositories.ask(context, async |repository| Catalogue::read(repository, instance).await).await?;
        Ok(Self { union: Union::of(catalogues), repositories })
    }
}

impl Repositories {
    /// Opens them at once. If none answers: the error of the first, which names the others.
    pub async fn open(context: &Context, places: &[Place]) -> Result<Self> {
        if places.is_empty() {
            return Err(Error::usage("no repository is named").hint("name one with --repo"));
        }
        let open = async |place: &Place| (place.name.clone(), place.open(context).await);
        let opened = context.interrupt.guard(async { Ok(join_all(places.iter().map(open)).await) }).await?;
        let (mut answering, mut unread) = (Vec::new(), Vec::new());
        for (name, opened) in opened {
            match opened {
                Ok(repository) => answering.push(repository),
                Err(error) => unread.push(Unread { name, error }),
            }
        }
        if answering.is_empty() {
            return Err(of_none(unread));
        }
        Ok(Self { answering, unread })
    }

    /// Asks all that answer the same thing, at once. One that does not answer is from then on one that could not be
    /// read; if none does this fails as [`Self::open`] does.
    pub async fn ask<T>(
        &mut self,
        context: &Context,
        question: impl AsyncFn(&Repository) -> Result<T>,
    ) -> Result<Vec<(Repository, T)>> {
        let asked = join_all(self.answering.iter().map(|repository| question(repository)));
        let answers = context.interrupt.guard(async { Ok(asked.await) }).await?;
        let mut told = Vec::new();
        for (repository, answer) in std::mem::take(&mut self.answering).into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    self.answering.push(repository.clone());
                    told.push((repository, answer));
                }
                Err(error) => self.unread.push(Unread { name: repository.name().to_owned(), error }),
            }
        }
        if told.is_empty() {
            return Err(of_none(std::mem::take(&mut self.unread)));
        }
        Ok(told)
    }

    /// What is to be known of the repositories themselves, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let unread = self
            .unread
            .iter()
            .map(|Unread { name, error }| format!("{name} could not be read: {}", error.said_of(name)));
        unread.chain(self.same_id()).collect()
    }

    /// The error of an answer that lacks what could not be read.
    pub fn partial(&self) -> Option<Error> {
        let first = self.unread.first()?;
        let told: Vec<_> = self.unread.iter().map(Unread::told).collect();
        let of = self.answering.len() + self.unread.len();
        let sentence = format!("{} of {of} repositories could not be read ({})", told.len(), told.join("; "));
        Some(Error::new(Kind::Partial, sentence).hinted(first.error.next_step()))
    }

    /// Two places with one id are one place under two names, or files copied by hand. What lies in both may then exist
    /// only once.
    fn same_id(&self) -> Option<String> {
        let twins = self.answering.iter().enumerate().find_map(|(at, one)| {
            let two = self.answering[at + 1..].iter().find(|two| two.id() == one.id())?;
            Some((one, two))
        });
        let (one, two) = twins?;
        Some(format!(
            "{} and {} have the same repository id: one place under two names, or one is a copy of the other's files",
            one.name(),
            two.name()
        ))
    }
}

fn of_none(unread: Vec<Unread>) -> Error {
    let mut unread = unread.into_iter();
    let Some(Unread { error: first, .. }) = unread.next() else {
        return Error::new(Kind::Unexpected, "no repository was read");
    };
    let others: Vec<_> = unread.map(|unread| unread.told()).collect();
    if others.is_empty() {
        return first;
    }
    Error::new(first.kind, format!("{first}; {}", others.join("; "))).hinted(first.next_step())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_none_answers_the_error_is_the_first_and_names_the_others() {
        let unread = |name: &str, kind| {
            let error = Error::new(kind, format!("open {name}")).hint(format!("mount {name}"));
            Unread { name: name.to_owned(), error }
        };
        let error = of_none(vec![unread("/a", Kind::Refused), unread("/b", Kind::Storage)]);
        assert_eq!((error.kind, error.to_string().as_str()), (Kind::Refused, "open /a; /b: open /b"));
        assert_eq!(error.next_step(), Some("mount /a"));
        assert_eq!(of_none(vec![unread("/a", Kind::NoSuchBackup)]).to_string(), "open /a");
    }
}
