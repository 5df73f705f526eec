//! Verification of tokens that are all new.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use countersign_core::freshness::Freshness;
use countersign_core::jose::CompactJws;
use countersign_core::jwk::PublicNumbers;
use countersign_core::verifying::{Presentation, TrustView, verify};

use crate::Failure;
use crate::fixture::{Fixture, ISSUED_AT};
use crate::measure::{Samples, Scale, micros, rate, time};
use crate::report::{Comparison, Measured};

/// Each round verifies this many tokens, first by the floor, then by us.
const ROUND: u32 = 500;

/// Every token is new: the whole decision against nothing but its signature check, on the same bytes.
pub(crate) fn cold(scale: Scale) -> Result<Comparison, Failure> {
    let fixture = Fixture::new(ISSUED_AT)?;
    let raw_key = raw_key(&fixture)?;
    let rounds = scale.of(60);
    let mut ratios = Samples::default();
    let (mut floor, mut ours) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let tokens: Vec<String> = (0..ROUND)
            .map(|number| fixture.token(round * ROUND + number, ISSUED_AT))
            .collect::<Result<_, _>>()?;
        let raw_time = raw_round(&raw_key, &tokens)?;
        let our_time = our_round(&fixture, &tokens)?;
        floor += raw_time;
        ours += our_time;
        ratios.push(Duration::from_secs_f64(
            raw_time.as_secs_f64() / our_time.as_secs_f64(),
        ));
    }
    let verified = rounds * ROUND;
    let ratio = floor.as_secs_f64() / ours.as_secs_f64();
    Ok(Comparison {
        name: "verify-cold",
        floor: Measured {
            what: "aws-lc ECDSA P-256 check of the same bytes, key parsed".to_owned(),
            value: rate(verified, floor),
            unit: "checks/s",
        },
        ours: Measured {
            what: "core::verifying::verify: parse, check, claims, time, revocation, scopes".to_owned(),
            value: rate(verified, ours),
            unit: "tokens/s",
        },
        ratio,
        target: ">= 0.9",
        met: Some(ratio >= 0.9),
        details: BTreeMap::from([
            ("floor_us_per_check", micros(floor / verified)),
            ("ours_us_per_token", micros(ours / verified)),
            ("ratio_median_round", ratios.percentile(500).as_secs_f64()),
            ("ratio_worst_round", ratios.percentile(0).as_secs_f64()),
            ("tokens", f64::from(verified)),
        ]),
    })
}

fn raw_key(fixture: &Fixture) -> Result<ParsedPublicKey, Failure> {
    let PublicNumbers::P256 { x, y } = fixture.key.jwk().numbers() else {
        return Err("the bench key is not on P-256".into());
    };
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    Ok(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)?)
}

/// The floor: what is signed and the signature lie ready, decoded.
fn raw_round(key: &ParsedPublicKey, tokens: &[String]) -> Result<Duration, Failure> {
    let parts: Vec<CompactJws<'_>> = tokens
        .iter()
        .map(|token| CompactJws::parse(token.as_bytes()))
        .collect::<Result<_, _>>()?;
    let mut good = 0_usize;
    let taken = time(|| {
        good = parts
            .iter()
            .filter(|jws| key.verify_sig(jws.signing_input, &jws.signature).is_ok())
            .count();
    });
    if good == tokens.len() {
        Ok(taken)
    } else {
        Err("the floor refused a good signature".into())
    }
}

fn our_round(fixture: &Fixture, tokens: &[String]) -> Result<Duration, Failure> {
    let view = TrustView {
        state: &fixture.state,
        freshness: Freshness::Fresh,
    };
    let presentation = Presentation {
        peer_certificate: None,
        requirements: &fixture.requirements,
    };
    let now = ISSUED_AT.saturating_add(Duration::from_secs(1));
    let accepts = |token: &&String| {
        verify(
            token.as_bytes(),
            Some(view),
            &fixture.expected,
            &presentation,
            now,
        )
        .is_ok()
    };
    let mut good = 0_usize;
    let taken = time(|| good = tokens.iter().filter(accepts).count());
    if good == tokens.len() {
        Ok(taken)
    } else {
        Err("a good token was refused".into())
    }
}
