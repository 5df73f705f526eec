//! F33: updates lost, repeated and reordered, a fifth of each. No retransmission of TCP would let that happen; a replica
//! or a relay might.

use super::*;

struct Dice(u64);

impl Dice {
    fn one_in(&mut self, bound: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33).is_multiple_of(bound)
    }
}

/// What reaches the verifier of what the authority sends.
fn spoiled(dice: &mut Dice, sent: Vec<Signed>) -> Vec<Signed> {
    let mut arrives = Vec::new();
    for signed in sent {
        if dice.one_in(5) {
            continue;
        }
        if dice.one_in(5) {
            arrives.push(signed.clone());
        }
        arrives.push(signed);
    }
    for index in 1..arrives.len() {
        if dice.one_in(5) {
            arrives.swap(index - 1, index);
        }
    }
    arrives
}

#[test]
fn the_authoritys_state_is_reached_through_loss_repetition_and_disorder() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut stage = Stage::in_force();
        for round in 0..30 {
            let deltas = (0..5).map(|n| stage.authority.revoke(&format!("t{round}-{n}")));
            let mut arriving = spoiled(&mut dice, deltas.collect());
            // Whatever it asks for is answered over the same bad line.
            for _ in 0..20 {
                let mut asks = false;
                for signed in arriving.drain(..) {
                    let before = stage.trust.epoch();
                    let sent = stage.update(signed);
                    asks |= nacks(&sent).iter().any(|(_, _, resync)| *resync);
                    assert!(stage.trust.epoch() >= before, "seed {seed}: stepped back");
                }
                asks |= nacks(&stage.pong()).iter().any(|(_, _, resync)| *resync);
                if asks {
                    let snapshot = stage.authority.snapshot();
                    arriving = spoiled(&mut dice, vec![snapshot]);
                }
            }
        }
        for _ in 0..200 {
            if stage.is_current() {
                break;
            }
            if nacks(&stage.pong()).iter().any(|(_, _, resync)| *resync) {
                let snapshot = stage.authority.snapshot();
                stage.update(snapshot);
            }
        }
        assert!(stage.is_current(), "seed {seed}");
        assert_eq!(stage.trust.status().revocations, 150, "seed {seed}");
        assert_eq!(stage.trust.status().alarm, None, "seed {seed}");
    }
}
