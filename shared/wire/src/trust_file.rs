//! Trust in a file: what marks it as one, and the message in it.
//!
//! Nothing is verified here. What is in the file is signed piece by piece, and read like what comes on a stream.

use bytes::Bytes;
use countersign_proto::trust::v1::TrustFile;
use prost::Message as _;

use crate::MAX_UPDATE_LENGTH;

/// The longest file: a snapshot, as much in deltas, and what is small.
pub const MAX_TRUST_FILE: usize = 2 * MAX_UPDATE_LENGTH + 1024 * 1024;

/// What a file begins with.
const MARK: &[u8] = b"countersign/trust-file/v1\0";

/// Why bytes are no trust file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTrustFile {
    /// They do not begin like one of this version.
    #[error("is no trust file of a version that is known here")]
    Format,
    /// They are more than any has.
    #[error("is over {MAX_TRUST_FILE} bytes")]
    TooLarge,
    /// They are damaged.
    #[error("is damaged")]
    Malformed,
}

/// The bytes of `file`.
#[must_use]
pub fn write_trust_file(file: &TrustFile) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MARK.len() + file.encoded_len());
    bytes.extend_from_slice(MARK);
    // A buffer that grows has room.
    let _has_room = file.encode(&mut bytes);
    bytes
}

/// The message in the bytes of a file. Shares them.
///
/// # Errors
/// [`NoTrustFile`].
pub fn read_trust_file(bytes: &Bytes) -> Result<TrustFile, NoTrustFile> {
    if bytes.len() > MAX_TRUST_FILE {
        return Err(NoTrustFile::TooLarge);
    }
    let message = bytes.strip_prefix(MARK).ok_or(NoTrustFile::Format)?;
    TrustFile::decode(bytes.slice_ref(message)).map_err(|_malformed| NoTrustFile::Malformed)
}

#[cfg(test)]
mod tests {
    use countersign_proto::trust::v1::Signed;

    use super::*;

    fn file() -> TrustFile {
        let signed = |text: &'static str| Signed {
            payload: text.into(),
            signature: "signature".into(),
            key_id: "key".to_owned(),
        };
        TrustFile {
            publishers: Vec::new(),
            snapshot: Some(signed("snapshot")),
            deltas: vec![signed("delta")],
            heartbeat: Some(signed("heartbeat")),
        }
    }

    fn read(bytes: &[u8]) -> Result<TrustFile, NoTrustFile> {
        read_trust_file(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        assert_eq!(read(&write_trust_file(&file())), Ok(file()));
    }

    /// K20: neither another file nor a part of one is taken for a trust file with nothing in it.
    #[test]
    fn what_does_not_begin_like_one_is_none() {
        let whole = write_trust_file(&file());
        for cut in 0..MARK.len() {
            assert_eq!(read(&whole[..cut]), Err(NoTrustFile::Format), "{cut}");
        }
        let later = [b"countersign/trust-file/v2\0", &whole[MARK.len()..]].concat();
        assert_eq!(read(&later), Err(NoTrustFile::Format));
        assert_eq!(read(b"{\"keys\":[]}"), Err(NoTrustFile::Format));
        let last = &whole[..whole.len() - 1];
        assert_eq!(read(last), Err(NoTrustFile::Malformed));
    }

    #[test]
    fn what_is_larger_than_any_is_not_decoded() {
        let long = vec![0; MAX_TRUST_FILE + 1];
        assert_eq!(read(&long), Err(NoTrustFile::TooLarge));
    }
}
