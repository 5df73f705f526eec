//! A newer token for streams that are open, so that a stream may outlive the token it was opened with.
//!
//! A caller who wants that names its streams when it opens them, and later presents another token under the same name. The
//! token must be its own (the same subject), good for every stream of that name at that moment, and grant all that the token
//! before it granted, because the service was told of that and is not told again. Streams then go on until the newer token
//! ends, is revoked, or the trust grows too old for them ([`crate::watch`]).
//!
//! Names are the caller's, and found under its subject alone: nobody reaches a stream of somebody else's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::binding::PeerCertificate;
use countersign_core::claims::Subject;
use countersign_core::requirements::MethodPath;
use countersign_core::{Rejection, Timestamp};
use http::{HeaderMap, HeaderName, Uri};
use tokio::sync::watch;

use crate::verifier::{Admission, Admitted, Decision, Denied, Question, Verifier};

/// The header by which a caller names a stream, and says later for which streams a token is.
pub const STREAM_ID: HeaderName = HeaderName::from_static("x-countersign-stream-id");

/// The longest name.
const LONGEST: usize = 64;

/// What a caller calls its streams: 1 to 64 of `A-Z`, `a-z`, `0-9`, `.`, `_`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The name in `headers`, if there is one.
    ///
    /// # Errors
    /// [`Rejection::RequestMalformed`] when there are several, or it is of no such form.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Rejection> {
        let mut ids = headers.get_all(STREAM_ID).iter();
        let (Some(only), None) = (ids.next(), ids.next()) else {
            return if headers.contains_key(STREAM_ID) {
                Err(Rejection::RequestMalformed)
            } else {
                Ok(None)
            };
        };
        let is_part = |byte: char| byte.is_ascii_alphanumeric() || matches!(byte, '.' | '_' | '-');
        let text = only
            .to_str()
            .ok()
            .filter(|text| (1..=LONGEST).contains(&text.len()) && text.chars().all(is_part));
        text.map(|text| Some(Self(text.into())))
            .ok_or(Rejection::RequestMalformed)
    }
}

/// A stream that was opened under a name.
#[derive(Debug)]
pub struct Stream {
    /// Its target, which names the method.
    pub uri: Uri,
    /// The certificate of its connection.
    pub peer_certificate: Option<PeerCertificate>,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It is not good, or not good for a stream of that name.
    Denied(Denied),
    /// Its subject has no stream of that name here.
    StreamUnknown,
}

impl From<Denied> for NotTaken {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// A token was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// For so many streams.
    pub streams: usize,
    /// Until then.
    pub expires_at: Timestamp,
}

type Name = (Subject, StreamId);

/// The streams that are open under a name.
#[derive(Debug, Default)]
pub struct Renewals {
    named: Mutex<HashMap<Name, Vec<Arc<Open>>>>,
}

#[derive(Debug)]
struct Open {
    stream: Stream,
    token: watch::Sender<Admitted>,
}

impl Open {
    /// Judges the token of `question` for this stream.
    fn judge(&self, verifier: &Verifier, token: &[u8]) -> Result<Admitted, Denied> {
        let path = self.stream.uri.path_and_query();
        let method = MethodPath::of_http(path.map_or("", |path| path.as_str()))?;
        let newer = admitted(verifier.decide(&Question {
            token: Ok(token),
            method: Some(method),
            peer_certificate: self.stream.peer_certificate.as_ref(),
        }))?;
        let now = self.token.borrow();
        let granted = &newer.claims().scopes;
        if now.claims().scopes.iter().all(|scope| granted.contains(scope)) {
            Ok(newer)
        } else {
            Err(Rejection::ScopeInsufficient.into())
        }
    }
}

/// The token that was let in; nobody's stream has no name.
fn admitted(decision: Decision) -> Result<Admitted, Denied> {
    match (decision.verdict?, decision.observed) {
        (Admission::Token(admitted), _) => Ok(admitted),
        (Admission::Open, Some(observed)) => Err(observed.denied),
        (Admission::Open, None) => Err(Rejection::RequestMalformed.into()),
    }
}

impl Renewals {
    /// Takes note of `stream`, opened under `id` with the token `admitted`, until the value returned is dropped.
    #[must_use]
    pub fn register(self: &Arc<Self>, id: StreamId, stream: Stream, admitted: &Admitted) -> Renewal {
        let name = (admitted.claims().subject.clone(), id);
        let (token, newest) = watch::channel(admitted.clone());
        let open = Arc::new(Open { stream, token });
        self.named()
            .entry(name.clone())
            .or_default()
            .push(Arc::clone(&open));
        Renewal {
            renewals: Arc::clone(self),
            name,
            open,
            newest,
        }
    }

    /// Presents `token` for all streams that its subject has open under `id`. Either all of them go on with it, in the place of the
    /// one before, or none.
    ///
    /// # Errors
    /// [`NotTaken`]. Nothing has changed then.
    pub fn present(
        &self,
        verifier: &Verifier,
        token: Result<&[u8], Rejection>,
        peer_certificate: Option<&PeerCertificate>,
        id: &StreamId,
    ) -> Result<Taken, NotTaken> {
        let presented = admitted(verifier.decide(&Question {
            token,
            method: None,
            peer_certificate,
        }))?;
        let token = token.map_err(Denied::from)?;
        let name = (presented.claims().subject.clone(), id.clone());
        let open = self.named().get(&name).cloned().ok_or(NotTaken::StreamUnknown)?;
        let judged: Vec<_> = open
            .iter()
            .map(|open| open.judge(verifier, token))
            .collect::<Result<_, _>>()?;
        for (open, newer) in open.iter().zip(judged) {
            open.token.send_replace(newer);
        }
        Ok(Taken {
            streams: open.len(),
            expires_at: presented.claims().expires_at,
        })
    }

    fn named(&self) -> MutexGuard<'_, HashMap<Name, Vec<Arc<Open>>>> {
        // What is done under the lock leaves the map whole.
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A named stream's part in it: hears of newer tokens.
#[derive(Debug)]
pub struct Renewal {
    renewals: Arc<Renewals>,
    name: Name,
    open: Arc<Open>,
    newest: watch::Receiver<Admitted>,
}

impl Renewal {
    /// Waits until there may be a newer token.
    pub(crate) async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            // The sender is ours, so it is there.
            pending().await
        }
    }

    /// The token that was presented last.
    pub(crate) fn newest(&mut self) -> Admitted {
        self.newest.borrow_and_update().clone()
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        let mut named = self.renewals.named();
        if let Entry::Occupied(mut streams) = named.entry(self.name.clone()) {
            streams.get_mut().retain(|open| !Arc::ptr_eq(open, &self.open));
            if streams.get().is_empty() {
                streams.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests;
