//! Who would have been refused what, on methods that are only observed: what there is to mend before they are enforced.
//!
//! Callers decide how many there are, so only so many are told apart; the rest is a number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::Timestamp;
use countersign_core::spiffe::SpiffeId;
use countersign_verifier::verifier::Observed;

/// How many are told apart.
const MOST: usize = 1000;

/// Calls of the same kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// The pattern that the method was found by. Nothing for the default.
    pub(crate) method: Option<Arc<str>>,
    /// What they would have been refused for.
    pub(crate) reason: &'static str,
    /// Whose they were.
    pub(crate) caller: String,
}

/// How many there were, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    pub(crate) first_at: Timestamp,
    pub(crate) last_at: Timestamp,
}

/// Who may be asked about a call, as far as is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin<'a> {
    /// The identity in the connection's certificate.
    pub(crate) peer: Option<&'a SpiffeId>,
    /// Where the connection comes from.
    pub(crate) remote: Option<SocketAddr>,
}

impl Origin<'_> {
    fn caller(&self, observed: &Observed) -> String {
        let client = observed.client_id.as_ref().map(ToString::to_string);
        client
            .or_else(|| self.peer.map(ToString::to_string))
            .or_else(|| self.remote.map(|remote| remote.ip().to_string()))
            .unwrap_or_else(|| "unknown".to_owned())
    }
}

#[derive(Debug, Default)]
struct Seen {
    kinds: BTreeMap<Kind, Calls>,
    others: u64,
}

/// What was observed since the start.
#[derive(Debug, Default)]
pub(crate) struct Observations(Mutex<Seen>);

impl Observations {
    /// Takes note of a call of a method that was found by the pattern `method`.
    pub(crate) fn note(
        &self,
        method: Option<Arc<str>>,
        observed: &Observed,
        origin: Origin<'_>,
        now: Timestamp,
    ) {
        let kind = Kind {
            method,
            reason: observed.denied.rejection.reason(),
            caller: origin.caller(observed),
        };
        let mut seen = self.lock();
        if let Some(calls) = seen.kinds.get_mut(&kind) {
            calls.count = calls.count.saturating_add(1);
            calls.last_at = now;
        } else if seen.kinds.len() < MOST {
            let calls = Calls {
                count: 1,
                first_at: now,
                last_at: now,
            };
            seen.kinds.insert(kind, calls);
        } else {
            seen.others = seen.others.saturating_add(1);
        }
    }

    /// Everything, and how many calls are in none of it.
    pub(crate) fn list(&self) -> (Vec<(Kind, Calls)>, u64) {
        let seen = self.lock();
        let kinds = seen.kinds.iter().map(|(kind, calls)| (kind.clone(), *calls));
        (kinds.collect(), seen.others)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A number that is one too low harms nobody.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::Rejection;
    use countersign_core::names::ClientId;

    use super::*;

    fn observed(client_id: Option<&str>) -> Observed {
        Observed {
            denied: Rejection::TokenMissing.into(),
            client_id: client_id.map(|client_id| ClientId::parse(client_id).expect("a client")),
        }
    }

    const AT: fn(u64) -> Timestamp = Timestamp::from_seconds;

    #[test]
    fn calls_are_told_apart_by_method_reason_and_caller() {
        let observations = Observations::default();
        let peer = SpiffeId::parse("spiffe://example.org/cart").expect("an identity");
        let remote = "192.0.2.7:1234".parse().ok();
        let origin = Origin {
            peer: Some(&peer),
            remote,
        };
        let method: Arc<str> = "/a.A/*".into();
        for (at, client, origin) in [
            (1, Some("orders"), origin),
            (2, None, origin),
            (3, None, Origin { peer: None, remote }),
            (4, None, Origin::default()),
            (5, None, origin),
        ] {
            observations.note(Some(Arc::clone(&method)), &observed(client), origin, AT(at));
        }
        observations.note(None, &observed(Some("orders")), origin, AT(6));
        let (kinds, others) = observations.list();
        let found: Vec<_> = kinds
            .iter()
            .map(|(kind, calls)| {
                (
                    kind.method.is_some(),
                    kind.caller.as_str(),
                    calls.count,
                    calls.last_at,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (false, "orders", 1, AT(6)),
                (true, "192.0.2.7", 1, AT(3)),
                (true, "orders", 1, AT(1)),
                (true, "spiffe://example.org/cart", 2, AT(5)),
                (true, "unknown", 1, AT(4)),
            ]
        );
        assert_eq!(others, 0);
    }

    /// H10: callers do not decide how much memory this takes.
    #[test]
    fn only_so_many_are_told_apart() {
        let observations = Observations::default();
        for number in 0..MOST + 10 {
            let client = format!("client-{number}");
            observations.note(None, &observed(Some(&client)), Origin::default(), AT(1));
        }
        observations.note(None, &observed(Some("client-3")), Origin::default(), AT(2));
        let (kinds, others) = observations.list();
        assert_eq!((kinds.len(), others), (MOST, 10));
    }
}
