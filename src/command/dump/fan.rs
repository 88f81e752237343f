//! One stream into several objects. A lane that fails is closed, and the others go on.

use bytes::Bytes;
use futures_util::future::join_all;

use super::copies::Copies;
use crate::error::{Error, Kind, Result};
use crate::repo::Ending;
use crate::storage::{ObjectMeta, ObjectWriter};

/// A lane for every copy, in their order.
pub struct Fan {
    lanes: Vec<Result<Box<dyn ObjectWriter>>>,
}

impl Fan {
    /// `expected_bytes` is a guess that stores prepare for.
    pub async fn open(copies: &Copies<'_>, ending: Ending, expected_bytes: u64) -> Self {
        Self::open_where(copies, ending, expected_bytes, |_| true).await
    }

    /// As [`Fan::open`], with lanes that are closed from the start where `is_wanted` says so of a copy's place.
    pub async fn open_where(
        copies: &Copies<'_>,
        ending: Ending,
        expected_bytes: u64,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Self {
        let is_wanted = &is_wanted;
        let writers = copies.making().iter().enumerate().map(async |(at, making)| match is_wanted(at) {
            true => making.backup.writer(ending, Some(expected_bytes)).await,
            false => Err(Error::new(Kind::Storage, "this copy was given up")),
        });
        Self { lanes: join_all(writers).await }
    }

    /// Without a lane.
    pub fn closed() -> Self {
        Self { lanes: Vec::new() }
    }

    /// Whether the stream still reaches anybody.
    pub fn is_open(&self) -> bool {
        self.lanes.iter().any(Result::is_ok)
    }

    /// Hands the next bytes to every lane; the slowest of them decides how long that takes.
    pub async fn write(&mut self, bytes: &Bytes) {
        join_all(self.lanes.iter_mut().map(async |lane| {
            let Ok(writer) = lane else { return };
            if let Err(error) = writer.write(bytes.clone()).await
                && let Ok(failed) = std::mem::replace(lane, Err(error.into()))
            {
                failed.abort().await;
            }
        }))
        .await;
    }

    /// Ends every lane: what each store says of its object.
    pub async fn finish(self) -> Vec<Result<ObjectMeta>> {
        join_all(self.lanes.into_iter().map(async |lane| Ok(lane?.finish().await?))).await
    }

    /// Gives up every lane. The errors are those of the lanes that were closed before.
    pub async fn abort(self) -> Vec<Option<Error>> {
        join_all(self.lanes.into_iter().map(async |lane| match lane {
            Ok(writer) => {
                writer.abort().await;
                None
            }
            Err(error) => Some(error),
        }))
        .await
    }
}
