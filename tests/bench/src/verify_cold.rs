//! Verification of tokens that are all new.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use countersign_core::claims::Claims;
use countersign_core::jose::CompactJws;
use countersign_core::jwk::{Jwk, PublicNumbers};
use countersign_core::verifying::{Presentation, TrustView, verify};

use crate::Failure;
use crate::fixture::{Fixture, ISSUED_AT};
use crate::measure::{Samples, Scale, cpu_time, micros, rate};
use crate::report::{Comparison, Measured};

/// Each round verifies this many tokens, first by the floor, then by us.
const ROUND: u32 = 100;

/// Every token is new: the whole decision against nothing but its signature check, on the same bytes.
pub(crate) fn cold(scale: Scale) -> Result<Comparison, Failure> {
    let fixture = Fixture::new(ISSUED_AT)?;
    let raw_key = raw_key(fixture.key.jwk())?;
    let mut timings = Timings::default();
    for round in 0..scale.of(300) {
        let tokens: Vec<String> = (0..ROUND)
            .map(|number| fixture.token(round * ROUND + number, ISSUED_AT))
            .collect::<Result<_, _>>()?;
        let floor = raw_round(&raw_key, &tokens)?;
        let ours = our_round(&fixture, &tokens)?;
        timings
            .ratios
            .push(Duration::from_secs_f64(floor.as_secs_f64() / ours.as_secs_f64()));
        timings.floor.push(floor);
        timings.ours.push(ours);
        timings.form.push(form_round(&tokens)?);
        timings.claims.push(claims_round(&tokens)?);
    }
    Ok(timings.comparison())
}

/// Rounds: the floor, ours, their ratio (as a duration, for its percentiles), and two parts of ours.
#[derive(Debug, Default)]
struct Timings {
    floor: Samples,
    ours: Samples,
    ratios: Samples,
    form: Samples,
    claims: Samples,
}

impl Timings {
    fn comparison(mut self) -> Comparison {
        let per_token = |samples: &mut Samples| samples.percentile(500) / ROUND;
        let (floor, ours) = (per_token(&mut self.floor), per_token(&mut self.ours));
        let ratio = self.ratios.percentile(500).as_secs_f64();
        Comparison {
            name: "verify-cold",
            floor: Measured {
                what: "aws-lc ECDSA P-256 check of the same bytes, key parsed; median round".to_owned(),
                value: rate(1, floor),
                unit: "checks/CPU-s",
            },
            ours: Measured {
                what: "core::verifying::verify: parse, check, claims, time, revocation, scopes; median round"
                    .to_owned(),
                value: rate(1, ours),
                unit: "tokens/CPU-s",
            },
            ratio,
            target: ">= 0.9",
            met: Some(ratio >= 0.9),
            details: BTreeMap::from([
                ("floor_us_per_check", micros(floor)),
                ("ours_us_per_token", micros(ours)),
                ("form_us_per_token", micros(per_token(&mut self.form))),
                ("claims_us_per_token", micros(per_token(&mut self.claims))),
                (
                    "ratio_tenth_percentile",
                    self.ratios.percentile(100).as_secs_f64(),
                ),
            ]),
        }
    }
}

/// `key`, as the floor takes it.
pub(crate) fn raw_key(key: &Jwk) -> Result<ParsedPublicKey, Failure> {
    let PublicNumbers::P256 { x, y } = key.numbers() else {
        return Err("the bench key is not on P-256".into());
    };
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    Ok(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)?)
}

/// The floor: what is signed and the signature lie ready, decoded.
pub(crate) fn raw_round(key: &ParsedPublicKey, tokens: &[String]) -> Result<Duration, Failure> {
    let parts: Vec<CompactJws<'_>> = tokens
        .iter()
        .map(|token| CompactJws::parse(token.as_bytes()))
        .collect::<Result<_, _>>()?;
    let mut good = 0_usize;
    let taken = cpu_time(|| {
        good = parts
            .iter()
            .filter(|jws| key.verify_sig(jws.signing_input, &jws.signature).is_ok())
            .count();
    });
    all(good, tokens).map(|()| taken)
}

fn our_round(fixture: &Fixture, tokens: &[String]) -> Result<Duration, Failure> {
    let view = TrustView::current(&fixture.state);
    let presentation = Presentation {
        peer_certificate: None,
        requirements: &fixture.requirements,
    };
    let now = ISSUED_AT.saturating_add(Duration::from_secs(1));
    let accepts =
        |token: &&String| verify(token.as_bytes(), Ok(view), &fixture.expected, &presentation, now).is_ok();
    let mut good = 0_usize;
    let taken = cpu_time(|| good = tokens.iter().filter(accepts).count());
    all(good, tokens).map(|()| taken)
}

/// The part of ours that takes the token apart and judges its header.
fn form_round(tokens: &[String]) -> Result<Duration, Failure> {
    let mut good = 0_usize;
    let taken = cpu_time(|| {
        good = tokens
            .iter()
            .filter(|token| black_box(CompactJws::parse(token.as_bytes())).is_ok())
            .count();
    });
    all(good, tokens).map(|()| taken)
}

/// The part of ours that reads the claims.
fn claims_round(tokens: &[String]) -> Result<Duration, Failure> {
    let payloads: Vec<Vec<u8>> = tokens
        .iter()
        .map(|token| CompactJws::parse(token.as_bytes()).map(|jws| jws.payload))
        .collect::<Result<_, _>>()?;
    let mut good = 0_usize;
    let taken = cpu_time(|| {
        good = payloads
            .iter()
            .filter(|payload| black_box(Claims::read(payload)).is_ok())
            .count();
    });
    all(good, tokens).map(|()| taken)
}

fn all(good: usize, tokens: &[String]) -> Result<(), Failure> {
    if good == tokens.len() {
        Ok(())
    } else {
        Err("a good token was refused".into())
    }
}
