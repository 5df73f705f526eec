//! The machines as such. Signatures, disks and streams are asked about where they are.
