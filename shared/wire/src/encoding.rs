//! Whether a request's messages are compressed. Our services take none that are: requests are small, and what is inflated
//! would be a bound more to keep (G13).

use http::HeaderMap;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::status::{self, Failure};

/// Nothing, or the status for compressed messages, which names what is taken instead (G14).
///
/// # Errors
/// [`Failure::EncodingUnsupported`].
pub fn check(headers: &HeaderMap) -> Result<(), Status> {
    let encodings = headers.get_all("grpc-encoding");
    if encodings.iter().all(|encoding| encoding == "identity") {
        return Ok(());
    }
    let mut status = status::failed(Failure::EncodingUnsupported);
    let metadata = status.metadata_mut();
    metadata.insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
    Err(status)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use tonic::Code;

    use super::*;

    fn checked(encodings: &[&'static str]) -> Result<(), Status> {
        let field = |value| {
            (
                HeaderName::from_static("grpc-encoding"),
                HeaderValue::from_static(value),
            )
        };
        check(&encodings.iter().map(|value| field(value)).collect())
    }

    /// G14.
    #[test]
    fn compressed_requests_are_refused_with_what_is_taken() {
        assert!(checked(&[]).is_ok());
        assert!(checked(&["identity"]).is_ok());
        for encodings in [&["gzip"][..], &["zstd"], &["bogus"], &[""], &["identity", "gzip"]] {
            let status = checked(encodings).expect_err("compressed");
            assert_eq!(status.code(), Code::Unimplemented);
            assert_eq!(status.message(), "messages are not taken compressed");
            assert_eq!(
                status.metadata().get("grpc-accept-encoding").expect("said"),
                "identity"
            );
        }
    }
}
