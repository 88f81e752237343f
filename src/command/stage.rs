//! The step in which an item failed, carried beside its error.

use crate::error::{Error, Result};

pub(super) struct Failed<S> {
    pub stage: S,
    pub error: Error,
}

pub(super) trait At<T> {
    /// Says in which step of the story this was.
    fn at<S>(self, stage: S) -> Result<T, Failed<S>>;
}

impl<T> At<T> for Result<T> {
    fn at<S>(self, stage: S) -> Result<T, Failed<S>> {
        self.map_err(|error| Failed { stage, error })
    }
}
