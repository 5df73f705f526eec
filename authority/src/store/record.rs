//! How a record is written: JSON with the number of its format in front, so that a newer one is refused by name instead of
//! being misread. Records that must not be read or changed by whoever holds the file are sealed, under their own name.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use countersign_crypto::{Envelope, EnvelopeError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer version.
    #[error("the record `{name}` has format {found}, this version knows up to {known}")]
    Newer {
        /// The record.
        name: String,
        /// Its format.
        found: u32,
        /// The format known here.
        known: u32,
    },
    /// It is not of its form.
    #[error("the record `{name}` is malformed")]
    Malformed {
        /// The record.
        name: String,
    },
    /// It cannot be opened: damaged, swapped with another, or sealed elsewhere.
    #[error("the record `{name}` cannot be opened: {cause}")]
    Sealed {
        /// The record.
        name: String,
        /// What is wrong with it.
        cause: EnvelopeError,
    },
    /// It cannot be written.
    #[error("the record `{name}` cannot be written")]
    Unwritable {
        /// The record.
        name: String,
    },
}

impl RecordError {
    /// The error for a record that is not of its form.
    #[must_use]
    pub fn malformed(name: &str) -> Self {
        Self::Malformed {
            name: name.to_owned(),
        }
    }
}

/// The stored form of something.
pub trait Stored: Serialize + DeserializeOwned {
    /// Its format, raised whenever an older version would misread it.
    const FORMAT: u32;
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<T> {
    #[serde(rename = "format")]
    _format: u32,
    record: T,
}

/// The record's bytes.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write<T: Stored>(name: &str, record: &T) -> Result<Vec<u8>, RecordError> {
    let written = Written {
        format: T::FORMAT,
        record,
    };
    serde_json::to_vec(&written).map_err(|_unserializable| RecordError::Unwritable {
        name: name.to_owned(),
    })
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// [`RecordError::Newer`], [`RecordError::Malformed`].
pub fn read<T: Stored>(name: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let malformed = |_syntax| RecordError::malformed(name);
    let Format { format } = serde_json::from_slice(bytes).map_err(malformed)?;
    if format > T::FORMAT {
        return Err(RecordError::Newer {
            name: name.to_owned(),
            found: format,
            known: T::FORMAT,
        });
    }
    let read: Read<T> = serde_json::from_slice(bytes).map_err(malformed)?;
    Ok(read.record)
}

/// Seals records of one installation.
#[derive(Clone, Debug)]
pub struct Vault {
    envelope: Arc<Envelope>,
    installation: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    sealed: String,
}

impl Stored for Sealed {
    const FORMAT: u32 = 1;
}

impl Vault {
    /// The vault of the installation with this identifier: nothing sealed for another one opens.
    #[must_use]
    pub const fn new(envelope: Arc<Envelope>, installation: String) -> Self {
        Self {
            envelope,
            installation,
        }
    }

    /// The record's bytes, sealed as `name`.
    ///
    /// # Errors
    /// [`RecordError::Unwritable`], [`RecordError::Sealed`].
    pub fn write<T: Stored>(&self, name: &str, record: &T) -> Result<Vec<u8>, RecordError> {
        let plain = Zeroizing::new(write(name, record)?);
        let sealed = self
            .envelope
            .seal(&self.sealed_name(name), &plain)
            .map_err(|cause| sealed(name, cause))?;
        let record = Sealed {
            sealed: STANDARD_NO_PAD.encode(sealed),
        };
        write(name, &record)
    }

    /// Reads what [`Vault::write`] wrote for the same name.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read<T: Stored>(&self, name: &str, bytes: &[u8]) -> Result<T, RecordError> {
        let record: Sealed = read(name, bytes)?;
        let ciphertext = STANDARD_NO_PAD
            .decode(record.sealed)
            .map_err(|_alphabet| RecordError::malformed(name))?;
        let plain = self
            .envelope
            .open(&self.sealed_name(name), &ciphertext)
            .map_err(|cause| sealed(name, cause))?;
        read(name, &plain)
    }

    fn sealed_name(&self, name: &str) -> String {
        format!("countersign/{}/{name}", self.installation)
    }
}

fn sealed(name: &str, cause: EnvelopeError) -> RecordError {
    RecordError::Sealed {
        name: name.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        text: String,
    }

    impl Stored for Note {
        const FORMAT: u32 = 2;
    }

    fn note() -> Note {
        Note {
            text: "hello".to_owned(),
        }
    }

    fn vault(key: u8, installation: &str) -> Vault {
        let mut kek = [key; 32];
        kek[0] = 0;
        Vault::new(
            Arc::new(Envelope::new(kek).expect("random enough")),
            installation.to_owned(),
        )
    }

    /// C18: what a newer version wrote is refused, and the version named.
    #[test]
    fn a_newer_format_is_refused_by_name_even_if_its_content_is_unknown() {
        let error =
            read::<Note>("notes/1", br#"{"format":3,"record":{"tune":1},"more":2}"#).expect_err("newer");
        assert_eq!(
            error.to_string(),
            "the record `notes/1` has format 3, this version knows up to 2"
        );
    }

    /// D13: garbage, nothing, a megabyte of it, and almost the right thing.
    #[test]
    fn what_is_not_of_its_form_is_refused() {
        for bytes in [
            &b""[..],
            b"garbage",
            b"{}",
            b"null",
            br#"{"format":2}"#,
            br#"{"format":2,"record":{}}"#,
            br#"{"format":2,"record":{"text":"a","more":1}}"#,
            br#"{"format":-1,"record":{"text":"a"}}"#,
            &[0xff; 1024 * 1024],
        ] {
            assert_eq!(
                read::<Note>("n", bytes),
                Err(RecordError::malformed("n")),
                "{} bytes",
                bytes.len()
            );
            assert!(vault(1, "here").read::<Note>("n", bytes).is_err());
        }
    }

    /// D09, D14, D16: a record under another name, of another installation, or under another key does not open.
    #[test]
    fn a_sealed_record_opens_only_where_it_was_sealed() {
        let bytes = vault(1, "here").write("notes/1", &note()).expect("seals");
        assert_eq!(vault(1, "here").read::<Note>("notes/1", &bytes), Ok(note()));
        assert!(!String::from_utf8_lossy(&bytes).contains("hello"));
        for (vault, name) in [
            (vault(1, "here"), "notes/2"),
            (vault(1, "there"), "notes/1"),
            (vault(2, "here"), "notes/1"),
        ] {
            assert!(matches!(
                vault.read::<Note>(name, &bytes),
                Err(RecordError::Sealed { .. })
            ));
        }
        let mut damaged = bytes;
        let middle = damaged.len() / 2;
        damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
        assert!(vault(1, "here").read::<Note>("notes/1", &damaged).is_err());
    }
}
