//! What the stock client is too polite to say, and how its errors read.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::common::{Proxy, Weed};

/// A client of the proxy, in the style that its dialect wants.
pub fn client_of(proxy: &Proxy) -> Client {
    let endpoint = proxy.endpoint();
    let config = Weed::shared().client_config(&endpoint).force_path_style(!endpoint.contains("localhost"));
    Client::from_conf(config.build())
}

/// The status and the code of an error answer, or the kind of the failure where there was none.
pub fn said<E: ProvideErrorMetadata + std::fmt::Debug, T: std::fmt::Debug>(
    answer: Result<T, SdkError<E>>,
) -> (u16, String) {
    let error = answer.unwrap_err();
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = error.code().map(str::to_owned).unwrap_or_else(|| match &error {
        SdkError::DispatchFailure(_) => "no connection".to_owned(),
        SdkError::ResponseError(_) => "no whole answer".to_owned(),
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::ServiceError(_) => "no code".to_owned(),
        other => panic!("{other:?}"),
    });
    (status, code)
}

/// A request, unsigned, in these bytes; all that comes back until the connection ends.
pub fn raw(proxy: &Proxy, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
