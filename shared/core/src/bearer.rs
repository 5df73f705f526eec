//! The token as it came in. It cannot be printed by accident, and this copy of it is cleared on drop.

use std::fmt;

use zeroize::Zeroizing;

use crate::rejection::Rejection;

/// The longest token that is looked at, in bytes. Header lists over 16 KiB are refused before us, so this leaves room for
/// the other headers.
pub const MAX_TOKEN_LENGTH: usize = 8 * 1024;

/// A bearer token as presented: bytes of unknown worth. `Debug` does not show them; memory is cleared on drop.
#[derive(Clone)]
pub struct BearerToken(Zeroizing<Vec<u8>>);

impl BearerToken {
    /// Wraps a bare token.
    ///
    /// # Errors
    /// [`Rejection::TokenMissing`] when it is empty, [`Rejection::TokenTooLarge`] over [`MAX_TOKEN_LENGTH`] (before
    /// anything is copied).
    pub fn new(token: &[u8]) -> Result<Self, Rejection> {
        check_length(token)?;
        Ok(Self(Zeroizing::new(token.to_vec())))
    }

    /// The token's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

fn check_length(token: &[u8]) -> Result<(), Rejection> {
    if token.is_empty() {
        Err(Rejection::TokenMissing)
    } else if token.len() > MAX_TOKEN_LENGTH {
        Err(Rejection::TokenTooLarge)
    } else {
        Ok(())
    }
}

/// The token in the `authorization` fields of one request (RFC 6750, section 2.1): exactly one field, of the scheme
/// `Bearer` in any case, one space, the token.
///
/// # Errors
/// - [`Rejection::TokenMissing`]: no field, another scheme, or nothing after the scheme.
/// - [`Rejection::TokenMalformed`]: several fields, whatever they hold, a byte outside ASCII, or a tab for the space.
/// - [`Rejection::TokenTooLarge`]: over [`MAX_TOKEN_LENGTH`].
pub fn from_authorization<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a [u8], Rejection> {
    let mut fields = fields.into_iter();
    let field = fields.next().ok_or(Rejection::TokenMissing)?;
    if fields.next().is_some() {
        // Neither the first nor the last wins: whoever is in front of us may have judged the other one.
        return Err(Rejection::TokenMalformed);
    }
    if !field.is_ascii() {
        return Err(Rejection::TokenMalformed);
    }
    let (scheme, rest) = field.split_at_checked(6).ok_or(Rejection::TokenMissing)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Rejection::TokenMissing);
    }
    let token = match rest.split_first() {
        None => return Err(Rejection::TokenMissing),
        Some((b' ', token)) => token,
        // `Bearer\t..` is our scheme, badly written; `Bearertoken ..` is another scheme.
        Some((b'\t', _)) => return Err(Rejection::TokenMalformed),
        Some(_) => return Err(Rejection::TokenMissing),
    };
    check_length(token)?;
    Ok(token)
}
