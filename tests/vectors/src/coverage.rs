//! Which lines of the catalogue are covered here, and where the others are.

use std::collections::BTreeSet;

use crate::setting::Setting;
use crate::{cases, key_sets};

/// A line that is covered outside the tables.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere {
    /// The line.
    pub id: &'static str,
    /// Where it is covered: a file or a crate, from the root of the repository.
    pub place: &'static str,
    /// What there is to see.
    pub what: &'static str,
}

const fn line(id: &'static str, place: &'static str, what: &'static str) -> Elsewhere {
    Elsewhere { id, place, what }
}

/// Lines of the sections T and K that are more than one request or one key set. They are tests of this crate, beside rows
/// of the tables or in place of them.
pub const SEQUENCES: [Elsewhere; 28] = [
    line("T09", "tests/vectors/tests/sequences.rs", "the empty token"),
    line(
        "T11",
        "tests/vectors/tests/sequences.rs",
        "nothing is copied or split before the size is known",
    ),
    line(
        "T11",
        "tests/vectors/tests/allocations.rs",
        "what a token costs, as the allocator counts it",
    ),
    line(
        "T93",
        "tests/vectors/tests/allocations.rs",
        "claims over the bound are not read, however many",
    ),
    line(
        "T26",
        "tests/vectors/tests/sequences.rs",
        "documents deeper than a token can carry",
    ),
    line(
        "T50",
        "tests/vectors/tests/sequences.rs",
        "the second in which a retired key ends",
    ),
    line(
        "T51",
        "tests/vectors/tests/sequences.rs",
        "the second in which an announced key begins",
    ),
    line(
        "T52",
        "tests/vectors/tests/sequences.rs",
        "a key compromised after its token was accepted",
    ),
    line(
        "T56",
        "tests/vectors/tests/sequences.rs",
        "every bit of a token under each algorithm",
    ),
    line(
        "T78",
        "tests/vectors/tests/sequences.rs",
        "a policy that allows several audiences",
    ),
    line(
        "T88",
        "tests/vectors/tests/sequences.rs",
        "every order of arrival",
    ),
    line(
        "T91",
        "tests/vectors/tests/sequences.rs",
        "accepted, then revoked or expired",
    ),
    line(
        "T92",
        "tests/vectors/tests/sequences.rs",
        "unknown key, then the key arrives",
    ),
    line("T57", "tests/vectors/tests/wycheproof.rs", "Wycheproof, P-256"),
    line("T61", "tests/vectors/tests/wycheproof.rs", "Wycheproof, Ed25519"),
    line("T62", "tests/vectors/tests/wycheproof.rs", "Wycheproof, RSA"),
    line(
        "K11",
        "tests/vectors/tests/updates.rs",
        "a set replaces the one before",
    ),
    line("K12", "tests/vectors/tests/updates.rs", "an older epoch"),
    line(
        "K13",
        "tests/vectors/tests/updates.rs",
        "the same epoch, another digest",
    ),
    line("K14", "tests/vectors/tests/updates.rs", "an impossible epoch"),
    line("K18", "tests/vectors/tests/updates.rs", "an unknown base"),
    line(
        "K19",
        "tests/vectors/tests/updates.rs",
        "twice, too early, too late",
    ),
    line("K20", "tests/vectors/tests/wire.rs", "cut or changed at any byte"),
    line("K21", "tests/vectors/tests/wire.rs", "a heartbeat's signature"),
    line(
        "K22",
        "tests/vectors/tests/wire.rs",
        "entries that are no revocations",
    ),
    line(
        "K24",
        "tests/vectors/tests/updates.rs",
        "by pruning, and by a snapshot",
    ),
    line(
        "K25",
        "tests/vectors/tests/updates.rs",
        "a revocation that comes too late",
    ),
    line(
        "K22",
        "tests/vectors/tests/updates.rs",
        "entries that live for years",
    ),
];

/// Lines that cannot be seen on the pure core at all, or not in full: they need a running verifier.
pub const ELSEWHERE: [Elsewhere; 15] = [
    line(
        "T08",
        "verifier-sidecar/tests/proxy/tokens.rs",
        "a token in a query, cookie or another header is not looked at",
    ),
    line(
        "T08",
        "verifier-sidecar/tests/proxy/bodies.rs",
        "nor is one in a trailer",
    ),
    line(
        "T91",
        "verifier-sidecar/verifier/src/verifier/tests.rs",
        "the cache of verified tokens",
    ),
    line(
        "T92",
        "verifier-sidecar/verifier/src/verifier/tests.rs",
        "no refusal is remembered across epochs",
    ),
    line(
        "T93",
        "tests/bench/src/hostile_claims.rs",
        "how long the verdict takes",
    ),
    line(
        "T95",
        "tests/integration/tests/hostile_tokens.rs",
        "the audience is the sidecar's configuration, not the request's",
    ),
    line(
        "K15",
        "verifier-sidecar/verifier/src/verifier/tests.rs",
        "a flood of unknown kids",
    ),
    line(
        "K16",
        "verifier-sidecar/verifier/src/verifier/tests.rs",
        "one wait for a newer epoch",
    ),
    line(
        "K19",
        "verifier-sidecar/verifier/src/sync/session/tests/heeding.rs",
        "revocations behind a gap are heeded",
    ),
    line(
        "K20",
        "verifier-sidecar/verifier/src/sync/session/tests.rs",
        "on the stream",
    ),
    line(
        "K21",
        "verifier-sidecar/verifier/src/sync/session/tests/heartbeats.rs",
        "older sequence, time far off, staleness grows on",
    ),
    line(
        "K22",
        "verifier-sidecar/verifier/src/sync/session/tests/heeding.rs",
        "the others are heeded, a snapshot is asked for, and not in a loop",
    ),
    line(
        "K23",
        "verifier-sidecar/verifier/src/trust/tests.rs",
        "a large update comes into force as a whole",
    ),
    line(
        "K23",
        "tests/bench/src/apply_update.rs",
        "what callers notice of it",
    ),
    line(
        "K25",
        "verifier-sidecar/verifier/src/sync/session/tests/heeding.rs",
        "counted, and dropped with the authority",
    ),
];

/// Lines about what there is not, and why.
pub const NOT_APPLICABLE: [(&str, &str); 3] = [
    (
        "T45",
        "core names no crate that could connect; the rows show the refusal",
    ),
    (
        "T55",
        "one issuer per sidecar; the rows show a kid of another authority",
    ),
    (
        "K17",
        "no key set is fetched over HTTP, so no redirect is followed",
    ),
];

/// The ids that have rows in the tables.
#[must_use]
pub fn in_tables(setting: &Setting) -> BTreeSet<&'static str> {
    let tokens = cases(setting).into_iter().map(|case| case.id);
    let sets = key_sets::cases(setting).into_iter().map(|case| case.id);
    tokens.chain(sets).collect()
}

/// All ids of a section with so many lines.
#[must_use]
pub fn section(letter: char, lines: u32) -> BTreeSet<String> {
    (1..=lines).map(|line| format!("{letter}{line:02}")).collect()
}
