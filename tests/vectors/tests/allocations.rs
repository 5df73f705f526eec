//! T11, T93: what a hostile token costs in memory, as the allocator counts it. One test in a program of its own, because
//! it counts for the whole process.

use std::alloc::System;
use std::hint::black_box;

use countersign_core::bearer::{MAX_TOKEN_LENGTH, from_authorization};
use countersign_core::claims::Claims;
use countersign_core::requirements::Requirements;
use countersign_core::trust::TrustState;
use countersign_core::verifying::{Presentation, verify};
use countersign_core::{Rejection, Timestamp};
use countersign_vectors::{Role, Setting};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What `work` allocates, freed or not.
fn cost<T>(work: impl FnOnce() -> T) -> (T, Stats) {
    let region = Region::new(ALLOCATOR);
    let outcome = black_box(work());
    (outcome, region.change())
}

/// All bytes that were asked for, also those of buffers that grew.
fn bytes(stats: &Stats) -> usize {
    stats.bytes_allocated + usize::try_from(stats.bytes_reallocated.max(0)).unwrap_or_default()
}

/// `count` members whose names a naive hash (31 h + c) takes for one: "Aa" and "BB" in every order.
fn colliding(count: usize) -> String {
    let name = |number: usize| -> String {
        let bits = (0..20).map(|bit| if number >> bit & 1 == 0 { "Aa" } else { "BB" });
        bits.collect()
    };
    let members: Vec<String> = (0..count)
        .map(|number| format!("\"{}\":1", name(number)))
        .collect();
    format!("{{{}}}", members.join(","))
}

fn numbered(count: usize) -> String {
    let members: Vec<String> = (0..count).map(|number| format!("\"{number}\":1")).collect();
    format!("{{{}}}", members.join(","))
}

struct Verifier {
    setting: Setting,
    state: TrustState,
    requirements: Requirements,
}

impl Verifier {
    fn new() -> Self {
        let setting = Setting::at(Timestamp::from_seconds(1_800_000_000));
        Self {
            state: setting.trust_state(),
            setting,
            requirements: Requirements::default(),
        }
    }

    /// The verdict, and what it costs.
    fn decide(&self, token: &[u8]) -> (Result<(), Rejection>, Stats) {
        let expected = self.setting.expectations();
        let presented = Presentation {
            peer_certificate: None,
            requirements: &self.requirements,
        };
        let view = Ok(self.setting.view(&self.state));
        cost(|| verify(token, view, &expected, &presented, self.setting.now).map(drop))
    }

    /// A token of so many claims more than are asked for.
    fn token_with(&self, count: usize) -> String {
        let payload = (0..count).fold(self.setting.payload(), |payload, number| {
            payload.also(format!("\"{number}\""), "1")
        });
        self.setting.token(Role::Active, &payload)
    }
}

/// T11: over the limit, nothing at all is allocated.
fn what_is_over_the_limit_costs_nothing(verifier: &Verifier) {
    let refused = Err(Rejection::TokenTooLarge);
    for length in [MAX_TOKEN_LENGTH + 1, 1_000_000] {
        let dots = vec![b'.'; length];
        let (verdict, stats) = verifier.decide(&dots);
        assert_eq!((verdict, bytes(&stats)), (refused, 0), "{length}");
        let field = [b"Bearer ", dots.as_slice()].concat();
        let (found, stats) = cost(|| from_authorization([field.as_slice()]).map(drop));
        assert_eq!((found, bytes(&stats)), (refused, 0), "{length}");
    }
    // T93: nor do so many claims fit into a token.
    let (verdict, stats) = verifier.decide(verifier.token_with(1_000).as_bytes());
    assert_eq!((verdict, bytes(&stats)), (refused, 0));
}

/// T11: within the limit, at most twice as much as that, whatever the token is full of.
fn what_is_within_the_limit_costs_at_most_twice_as_much(verifier: &Verifier) {
    let long = format!("\"{}\"", "y".repeat(5000));
    let payload = verifier.setting.payload().with("x", long);
    let full = [
        ("dots", vec![b'.'; MAX_TOKEN_LENGTH]),
        ("one segment", vec![b'a'; MAX_TOKEN_LENGTH]),
        (
            "three segments",
            [b"a".repeat(2730), b"a".repeat(2730), b"a".repeat(2730)].join(&b'.'),
        ),
        (
            "a large header",
            [b"eyJhIjoi".to_vec(), b"A".repeat(8000), b".e30.AA".to_vec()].concat(),
        ),
        ("many claims", verifier.token_with(500).into_bytes()),
        (
            "a long claim",
            verifier.setting.token(Role::Active, &payload).into_bytes(),
        ),
    ];
    for (name, token) in full {
        assert!(token.len() <= MAX_TOKEN_LENGTH, "{name}");
        let (_, stats) = verifier.decide(&token);
        assert!(bytes(&stats) <= 2 * MAX_TOKEN_LENGTH, "{name}: {stats:?}");
    }
}

/// T93: members over the bound are not read: a hundred times as many cost nothing more, nor do names that collide.
fn what_is_over_the_bound_of_members_is_not_read() {
    let objects: [fn(usize) -> String; 2] = [numbered, colliding];
    for object in objects {
        let read = |count: usize| {
            let document = object(count);
            let (claims, stats) = cost(|| Claims::read(document.as_bytes()).map(drop));
            assert_eq!(claims, Err(Rejection::TokenMalformed));
            (stats.allocations + stats.reallocations, bytes(&stats))
        };
        let thousand = read(1_000);
        assert_eq!(read(4_096), thousand);
        assert_eq!(read(100_000), thousand);
        assert!(thousand.1 <= 2 * MAX_TOKEN_LENGTH, "{thousand:?}");
    }
}

#[test]
fn hostile_tokens_cost_no_more_than_their_limit() {
    let verifier = Verifier::new();
    // Whatever is made once is made.
    assert_eq!(
        verifier.decide(verifier.setting.good_token().as_bytes()).0,
        Ok(())
    );
    what_is_over_the_limit_costs_nothing(&verifier);
    what_is_within_the_limit_costs_at_most_twice_as_much(&verifier);
    what_is_over_the_bound_of_members_is_not_read();
}
