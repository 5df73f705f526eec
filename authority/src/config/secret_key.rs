//! The key-encryption key: a file with 32 random bytes as text, that nobody else can read.

use std::path::Path;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use countersign_crypto::{Envelope, EnvelopeError};
use countersign_mtls::FileError;
use countersign_mtls::files::read_secret;
use zeroize::Zeroizing;

/// The file holds no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretKeyError {
    /// It cannot be read, or others can.
    #[error("{0}")]
    File(FileError),
    /// It is not 32 bytes in base64 or hexadecimal.
    #[error("`{path}` is not 32 bytes in base64 or hexadecimal; `openssl rand -base64 32` makes one")]
    Form {
        /// The file.
        path: String,
    },
    /// It is no random key.
    #[error("`{path}`: {source}")]
    Refused {
        /// The file.
        path: String,
        /// Why.
        source: EnvelopeError,
    },
}

/// The text of a key, a newline at its end, and what editors add.
const MAX_BYTES: u64 = 128;

/// Both ways of padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the key and makes an envelope of it. One newline at the end is not part of the key (C11).
///
/// # Errors
/// [`SecretKeyError`].
pub fn read(path: &Path) -> Result<Envelope, SecretKeyError> {
    let text = read_secret(path, MAX_BYTES).map_err(SecretKeyError::File)?;
    let name = || path.display().to_string();
    let key = decode(&text).ok_or_else(|| SecretKeyError::Form { path: name() })?;
    Envelope::new(*key).map_err(|source| SecretKeyError::Refused { path: name(), source })
}

fn decode(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut key = Zeroizing::new([0; 32]);
    if line.len() == 64 {
        for (byte, digits) in key.iter_mut().zip(line.chunks_exact(2)) {
            *byte = digits
                .iter()
                .try_fold(0, |value, digit| {
                    let digit = char::from(*digit).to_digit(16)?;
                    Some(value * 16 + digit)
                })
                .and_then(|value| u8::try_from(value).ok())?;
        }
        return Some(key);
    }
    let length = BASE64.decode_slice(line, key.as_mut_slice()).ok()?;
    (length == 32).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key() -> [u8; 32] {
        std::array::from_fn(|n| u8::try_from(n).expect("small"))
    }

    /// C11: one newline is stripped, and nothing else.
    #[test]
    fn a_key_is_32_bytes_in_base64_or_hexadecimal() {
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let unpadded = base64.trim_end_matches('=');
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        for text in [
            base64,
            unpadded,
            &format!("{base64}\n"),
            &format!("{base64}\r\n"),
            hex,
            &format!("{hex}\n"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(&key()), "{text:?}");
        }
        for text in [
            "",
            "\n",
            unpadded.trim_end_matches('8'),
            &format!(" {base64}"),
            &format!("{base64}\n\n"),
            &format!("{base64}AAAA"),
            hex.trim_end_matches('F'),
            &format!("{hex}0"),
            &hex.replace('a', "g"),
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(decode(&key()), None, "bytes are no text");
    }

    fn written(content: &str, mode: u32) -> Result<Envelope, SecretKeyError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kek");
        std::fs::write(&path, content).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("sets");
        read(&path)
    }

    /// C08, C09: a key that others can read, or that is no random one, is refused.
    #[test]
    fn a_key_that_is_no_secret_is_refused() {
        let good = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
        assert!(written(good, 0o600).is_ok());
        for mode in [0o644, 0o640, 0o666, 0o604] {
            assert!(
                matches!(written(good, mode), Err(SecretKeyError::File(_))),
                "{mode:o}"
            );
        }
        let zeros = format!("{}=", "A".repeat(43));
        assert!(matches!(
            written(&zeros, 0o600),
            Err(SecretKeyError::Refused { .. })
        ));
        assert!(matches!(written("key", 0o600), Err(SecretKeyError::Form { .. })));
        let long = "A".repeat(10_000);
        assert!(matches!(written(&long, 0o600), Err(SecretKeyError::File(_))));
        for path in ["/dev/zero", "/dev", "/nowhere"] {
            assert!(
                matches!(read(path.as_ref()), Err(SecretKeyError::File(_))),
                "{path}"
            );
        }
    }
}
