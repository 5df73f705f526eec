//! Key sets that must be refused (K01 to K10).
