//! Certificates and keys from files: bounded, checked before they are trusted, with errors that name file and cure.
//!
//! A file is opened first and examined through its descriptor, so that what was checked is what is read. Pipes, devices
//! and folders are refused, and opening never waits for a writer. A secret is refused when others could have read or
//! replaced it (see [`read_secret`]). Symbolic links are followed, because mounted secrets are made of them.

mod pem;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::error::TlsError;
use crate::identity::PeerIdentity;

/// The largest file that is read: hundreds of roots fit, and a reload never costs more.
const MAX_BYTES: u64 = 1024 * 1024;

/// The three files of one end of a mutually authenticated connection, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, then its intermediates.
    pub certificate: PathBuf,
    /// The key of our certificate.
    pub private_key: PathBuf,
    /// The roots that the peer's certificate must come from.
    pub trust_roots: PathBuf,
}

/// A file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: FileProblem,
}

/// What is wrong with a file, and how to cure it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// The system does not let it be read.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::ErrorKind),
    /// It is a folder, a pipe, a device or a socket.
    #[error("is no regular file")]
    NotRegular,
    /// It is over the limit.
    #[error("is over {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Others may read or change the secret.
    #[error("has mode {mode:03o}, so that others can reach the secret; use `chmod 600`")]
    ReachableByOthers {
        /// The permission bits.
        mode: u32,
    },
    /// The secret belongs to another user.
    #[error("belongs to user {owner}; it must belong to root or to the user of this process")]
    ForeignOwner {
        /// The owner.
        owner: u32,
    },
    /// Anybody could replace the secret.
    #[error("lies in `{}`, where anybody may replace it", folder.display())]
    OpenFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// It begins with a byte order mark.
    #[error("begins with a byte order mark; save it as plain ASCII")]
    ByteOrderMark,
    /// A PEM section is damaged.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// No certificate in it.
    #[error("has no `CERTIFICATE` section")]
    NoCertificate,
    /// More certificates than a chain or a set of roots has.
    #[error("has more than {limit} certificates")]
    ManyCertificates {
        /// The limit.
        limit: usize,
    },
    /// A private key lies where certificates belong.
    #[error("has a private key; only certificates belong there")]
    KeyAmongCertificates,
    /// No private key in it.
    #[error("has no `PRIVATE KEY` section")]
    NoKey,
    /// More than one private key.
    #[error("has more than one private key; which one is meant cannot be known")]
    ManyKeys,
    /// The key is encrypted.
    #[error(
        "has an encrypted private key; decrypt it, with for instance `openssl pkey -in KEY -out KEY.plain`"
    )]
    EncryptedKey,
}

/// Reads a public file of at most `limit` bytes.
///
/// # Errors
/// [`FileError`], when it cannot be read, is no regular file or is larger.
pub fn read_public(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = open_regular(path)?;
    Ok(std::mem::take(&mut *read_bounded(path, &file, limit)?))
}

/// Reads a secret of at most `limit` bytes, and wipes it from memory when it is dropped.
///
/// The file must belong to the user of this process with no access for group and others, or to root with at most read
/// access for the group (as mounted secrets have it). Its folder must not let anybody replace it.
///
/// # Errors
/// [`FileError`], as for public files, and when others can reach the secret.
pub fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open_regular(path)?;
    let refused = |problem| FileError {
        path: path.to_owned(),
        problem,
    };
    let metadata = file
        .metadata()
        .map_err(|e| refused(FileProblem::Unreadable(e.kind())))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    check_access(owner, mode, rustix::process::geteuid().as_raw()).map_err(refused)?;
    if let Some(folder) = folder_open_to_anybody(path) {
        return Err(refused(FileProblem::OpenFolder { folder }));
    }
    read_bounded(path, &file, limit)
}

fn check_access(owner: u32, mode: u32, user: u32) -> Result<(), FileProblem> {
    if owner != 0 && owner != user {
        return Err(FileProblem::ForeignOwner { owner });
    }
    // Only root can give a group of ours the right to read a file that is not ours (as Kubernetes does by `fsGroup`).
    let forbidden = if owner == 0 && user != 0 { 0o037 } else { 0o077 };
    if mode & forbidden == 0 {
        Ok(())
    } else {
        Err(FileProblem::ReachableByOthers { mode })
    }
}

/// The folder that `path` leads to, when everybody may write there and no sticky bit protects others' files.
fn folder_open_to_anybody(path: &Path) -> Option<PathBuf> {
    let folder = path.canonicalize().ok()?.parent()?.to_owned();
    let mode = std::fs::metadata(&folder).ok()?.mode();
    (mode & 0o002 != 0 && mode & 0o1000 == 0).then_some(folder)
}

fn open_regular(path: &Path) -> Result<File, FileError> {
    let refused = |problem| FileError {
        path: path.to_owned(),
        problem,
    };
    // Without it, opening a pipe waits for somebody to write.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = File::options().read(true).custom_flags(nonblocking).open(path);
    let file = opened.map_err(|e| refused(FileProblem::Unreadable(e.kind())))?;
    let metadata = file
        .metadata()
        .map_err(|e| refused(FileProblem::Unreadable(e.kind())))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        Err(refused(FileProblem::NotRegular))
    }
}

fn read_bounded(path: &Path, file: &File, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let refused = |problem| FileError {
        path: path.to_owned(),
        problem,
    };
    // Room for everything at once: a vector that grows leaves copies of a secret behind.
    let room = usize::try_from(limit.saturating_add(1)).unwrap_or(usize::MAX);
    let mut content = Zeroizing::new(Vec::with_capacity(room.min(64 * 1024)));
    let size = file.metadata().map_or(0, |m| m.len()).min(limit);
    content.reserve_exact(usize::try_from(size.saturating_add(1)).unwrap_or_default());
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut content);
    let length = read.map_err(|e| refused(FileProblem::Unreadable(e.kind())))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > limit {
        return Err(refused(FileProblem::TooLarge { limit }));
    }
    Ok(content)
}

/// What the files held at one moment, not yet understood.
pub(crate) struct Contents {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
    trust_roots: Option<Vec<u8>>,
}

/// Tells one state of the files from another.
pub(crate) type Fingerprint = [u8; 32];

/// The files, understood.
pub(crate) struct Material {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) private_key: PrivateKeyDer<'static>,
    /// Empty when the peer needs no certificate.
    pub(crate) trust_roots: RootCertStore,
    /// Who we are.
    pub(crate) identity: PeerIdentity,
}

impl Contents {
    pub(crate) fn read(files: &TlsFiles, with_roots: bool) -> Result<Self, FileError> {
        let roots = with_roots.then(|| read_public(&files.trust_roots, MAX_BYTES));
        Ok(Self {
            certificate: read_public(&files.certificate, MAX_BYTES)?,
            private_key: read_secret(&files.private_key, MAX_BYTES)?,
            trust_roots: roots.transpose()?,
        })
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let roots = self.trust_roots.as_deref().unwrap_or_default();
        for part in [&self.certificate, self.private_key.as_slice(), roots] {
            hash.update(&part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finish().as_ref().try_into().unwrap_or_default()
    }

    pub(crate) fn parse(&self, files: &TlsFiles) -> Result<Material, TlsError> {
        let chain = pem::certificates(&self.certificate, pem::MAX_CHAIN).map_err(at(&files.certificate))?;
        let private_key = pem::private_key(&self.private_key).map_err(at(&files.private_key))?;
        let leaf = chain.first().map(CertificateDer::as_ref).unwrap_or_default();
        let identity = PeerIdentity::from_der(leaf).map_err(|source| TlsError::Identity {
            path: files.certificate.clone(),
            source,
        })?;
        let mut trust_roots = RootCertStore::empty();
        if let Some(content) = &self.trust_roots {
            for root in pem::certificates(content, pem::MAX_ROOTS).map_err(at(&files.trust_roots))? {
                let added = trust_roots.add(root);
                added.map_err(|e| TlsError::TrustRoots {
                    path: files.trust_roots.clone(),
                    source: e.into(),
                })?;
            }
        }
        Ok(Material {
            chain,
            private_key,
            trust_roots,
            identity,
        })
    }
}

fn at(path: &Path) -> impl FnOnce(FileProblem) -> FileError {
    move |problem| FileError {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests;
