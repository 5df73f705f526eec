//! Project Wycheproof's signature vectors (T57 to T64). What it calls acceptable counts as a refusal, except where the
//! catalogue says otherwise.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;

use countersign_core::jwk::{Jwk, PublicNumbers};
use countersign_core::ports::{KeyReader as _, PublicKey};
use countersign_crypto::AwsLc;
use wycheproof::TestResult;
use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify};

fn ready(numbers: PublicNumbers) -> Option<Arc<dyn PublicKey>> {
    AwsLc.public_key(&Jwk::new(numbers, &AwsLc)).ok()
}

/// 32 bytes, with leading zeros dropped or one added, as the vectors write coordinates.
fn coordinate(bytes: &[u8]) -> [u8; 32] {
    let significant: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    let padded = [vec![0; 32_usize.saturating_sub(significant.len())], significant].concat();
    padded.try_into().expect("a coordinate")
}

/// Collects false answers.
#[derive(Default)]
struct Verdicts {
    asked: usize,
    wrong: Vec<String>,
}

impl Verdicts {
    fn compare(&mut self, id: usize, comment: &str, result: TestResult, accepted: bool) {
        self.asked += 1;
        if accepted != (result == TestResult::Valid) {
            self.wrong
                .push(format!("{id} {comment}: {result:?}, accepted: {accepted}"));
        }
    }

    fn finish(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(self.asked >= at_least, "only {} vectors", self.asked);
    }
}

/// T57, T58, T59, T64: ECDSA on P-256 with SHA-256, signatures as `r || s`.
#[test]
fn es256() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).expect("vectors");
    let mut verdicts = Verdicts::default();
    for group in &set.test_groups {
        let numbers = PublicNumbers::P256 {
            x: coordinate(&group.key.affine_x),
            y: coordinate(&group.key.affine_y),
        };
        let key = ready(numbers).expect("a good key");
        for test in &group.tests {
            let accepted = key.verifies(&test.msg, &test.sig);
            verdicts.compare(test.tc_id, &test.comment, test.result, accepted);
        }
    }
    verdicts.finish(200);
}

/// T60: the DER vectors. What we take is 64 bytes of `r || s`, so not one of these is accepted.
#[test]
fn es256_takes_no_der() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).expect("vectors");
    let mut asked = 0;
    for group in &set.test_groups {
        let numbers = PublicNumbers::P256 {
            x: coordinate(&group.key.affine_x),
            y: coordinate(&group.key.affine_y),
        };
        let key = ready(numbers).expect("a good key");
        for test in &group.tests {
            assert!(
                !key.verifies(&test.msg, &test.sig),
                "{} {}",
                test.tc_id,
                test.comment
            );
            asked += 1;
        }
    }
    assert!(asked >= 400, "only {asked} vectors");
}

/// T61: Ed25519.
#[test]
fn eddsa() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors");
    let mut verdicts = Verdicts::default();
    for group in &set.test_groups {
        let x = group.key.pk.as_slice().try_into().expect("32 bytes");
        let key = ready(PublicNumbers::Ed25519 { x }).expect("a good key");
        for test in &group.tests {
            let accepted = key.verifies(&test.msg, &test.sig);
            verdicts.compare(test.tc_id, &test.comment, test.result, accepted);
        }
    }
    verdicts.finish(130);
}

/// T62: RSASSA-PKCS1-v1_5 with SHA-256. Keys whose exponent is below 65537 are refused before any signature.
#[test]
fn rs256() {
    let mut verdicts = Verdicts::default();
    let mut refused_keys = 0;
    for name in [
        rsa_pkcs1_verify::TestName::Rsa2048Sha256,
        rsa_pkcs1_verify::TestName::Rsa3072Sha256,
        rsa_pkcs1_verify::TestName::Rsa4096Sha256,
        rsa_pkcs1_verify::TestName::Rsa8192Sha256,
    ] {
        let set = rsa_pkcs1_verify::TestSet::load(name).expect("vectors");
        for group in &set.test_groups {
            let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            let exponent: Vec<u8> = number(&group.key.e);
            let is_small = exponent.len() < 3;
            let key = ready(PublicNumbers::Rsa {
                modulus: number(&group.key.n),
                exponent,
            });
            let Some(key) = key else {
                assert!(is_small, "a good key is refused");
                refused_keys += 1;
                continue;
            };
            assert!(!is_small, "a small exponent");
            for test in &group.tests {
                let accepted = key.verifies(&test.msg, &test.sig);
                verdicts.compare(test.tc_id, &test.comment, test.result, accepted);
            }
        }
    }
    assert!(refused_keys > 0, "the vectors had keys with e = 3");
    verdicts.finish(900);
}
