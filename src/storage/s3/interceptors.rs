//! What the SDK does not do by itself: two hooks, each for one kind of request.

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use chrono::{DateTime, Utc};
use md5::{Digest as _, Md5};
use std::sync::{Arc, Mutex, PoisonError};

/// Sends the MD5 of a DeleteObjects instead of a CRC32, which many stores do not know; all know MD5.
/// Set for one request: set for all requests it would run before the SDK adds its own.
#[derive(Debug)]
pub(super) struct ContentMd5;

impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let body = request.body().bytes().ok_or("the body of a DeleteObjects is not in memory")?;
        let digest = aws_smithy_types::base64::encode(Md5::digest(body));
        let headers = request.headers_mut();
        let names: Vec<String> = headers.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            if name.starts_with("x-amz-checksum-") || name == "x-amz-sdk-checksum-algorithm" {
                headers.remove(name);
            }
        }
        headers.insert("content-md5", digest);
        Ok(())
    }
}

/// Notes when a store says that it answered: its clock.
#[derive(Clone, Debug, Default)]
pub(super) struct AnsweredAt(Arc<Mutex<Option<DateTime<Utc>>>>);

impl AnsweredAt {
    pub fn get(&self) -> Option<DateTime<Utc>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for AnsweredAt {
    fn name(&self) -> &'static str {
        "AnsweredAt"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| DateTime::parse_from_rfc2822(text).ok()).map(|date| date.to_utc());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}
