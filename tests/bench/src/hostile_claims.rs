//! The verdict about tokens that are made to take long (T93).

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::bearer::MAX_TOKEN_LENGTH;
use countersign_core::ports::Signer as _;
use countersign_core::verifying::{Presentation, TrustView, verify};

use crate::Failure;
use crate::fixture::{Fixture, ISSUED_AT};
use crate::measure::{Samples, Scale, cpu_time, micros};
use crate::report::{Comparison, Measured};

/// The worst verdict about tokens with thousands of claims, with claims that a naive hash takes for one, and with as many
/// and as deep ones as are read, all signed by the authority's key; against the verdict about a good token.
pub(crate) fn hostile_claims(scale: Scale) -> Result<Comparison, Failure> {
    let fixture = Fixture::new(ISSUED_AT)?;
    let good = fixture.token(1, ISSUED_AT)?;
    let hostile: Vec<(&'static str, String)> = [
        ("claims_1000_us", numbered(1_000)),
        ("colliding_4096_us", colliding(4_096)),
        ("claims_full_token_us", numbered(500)),
        ("colliding_full_token_us", colliding(180)),
        ("longest_names_us", long_names()),
        (
            "deepest_us",
            format!("{{\"a\":{}{}}}", "[".repeat(7), "]".repeat(7)),
        ),
    ]
    .into_iter()
    .map(|(name, payload)| Ok((name, token(&fixture, &payload)?)))
    .collect::<Result<_, Failure>>()?;

    let mut baseline = Samples::default();
    let mut worst: Vec<Samples> = hostile.iter().map(|_| Samples::default()).collect();
    for _ in 0..scale.of(1_000) {
        baseline.push(verdict(&fixture, &good, true)?);
        for ((_, token), samples) in hostile.iter().zip(&mut worst) {
            samples.push(verdict(&fixture, token, false)?);
        }
    }
    let mut details = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for ((name, _), samples) in hostile.iter().zip(&mut worst) {
        let p99 = samples.percentile(990);
        slowest = slowest.max(p99);
        details.insert(*name, micros(p99));
    }
    let floor = baseline.percentile(990);
    Ok(Comparison {
        name: "hostile-claims",
        floor: Measured {
            what: "verdict about a good token, p99 of CPU time".to_owned(),
            value: micros(floor),
            unit: "us",
        },
        ours: Measured {
            what: "verdict about the slowest of the hostile tokens, p99 of CPU time".to_owned(),
            value: micros(slowest),
            unit: "us",
        },
        ratio: slowest.as_secs_f64() / floor.as_secs_f64(),
        target: "< 5 ms",
        met: Some(slowest < Duration::from_millis(5)),
        details,
    })
}

fn verdict(fixture: &Fixture, token: &str, good: bool) -> Result<Duration, Failure> {
    let view = TrustView::current(&fixture.state);
    let presentation = Presentation {
        peer_certificate: None,
        requirements: &fixture.requirements,
    };
    let now = ISSUED_AT.saturating_add(Duration::from_secs(1));
    let mut accepted = false;
    let took = cpu_time(|| {
        let verdict = verify(
            black_box(token.as_bytes()),
            Ok(view),
            &fixture.expected,
            &presentation,
            now,
        );
        accepted = verdict.is_ok();
    });
    if accepted == good {
        Ok(took)
    } else {
        Err("a hostile token was accepted, or a good one refused".into())
    }
}

fn token(fixture: &Fixture, payload: &str) -> Result<String, Failure> {
    let header = format!(
        r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#,
        fixture.key.key_id()
    );
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = fixture.key.sign(input.as_bytes())?;
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn object(names: impl Iterator<Item = String>) -> String {
    let members: Vec<String> = names.map(|name| format!("\"{name}\":1")).collect();
    format!("{{{}}}", members.join(","))
}

fn numbered(count: u32) -> String {
    object((0..count).map(|number| number.to_string()))
}

/// Names that the hash 31 h + c takes for one.
fn colliding(count: u32) -> String {
    let name = |number: u32| -> String {
        let bits = (0..12).map(|bit| if number >> bit & 1 == 0 { "Aa" } else { "BB" });
        bits.collect()
    };
    // As many as fit: what is over the limit is refused unread, and costs nothing.
    object((0..count).map(name))
}

/// Names that differ in their last characters only, so that comparing them takes longest.
fn long_names() -> String {
    let room = MAX_TOKEN_LENGTH / 2 / 64;
    object((0..64).map(|number| format!("{}{number:02}", "n".repeat(room.saturating_sub(8)))))
}
