//! Tokens that nobody has seen, to the Verify API in batches and through the proxy, against the bare check of their signatures.

use aws_lc_rs::signature::ParsedPublicKey;
use countersign_core::jose::CompactJws;
use countersign_core::jwk::read_set;
use countersign_crypto::AwsLc;
use serde::Serialize;

use super::peers::{OURS, Stage};
use super::results::Figures;
use super::{FULL, OTHER_CALLER, Run, scaled};
use crate::load::{self, Load, Tokens};
use crate::measure::{float, micros};
use crate::program::scheduled;
use crate::{Failure, cores, verify_cold};

/// Tokens in one batch: the most that the Verify API takes.
const BATCH: usize = 1_024;

/// Tokens of a round.
const ROUND: u32 = 8 * 1_024;

/// Rounds of all three, in microseconds of processor time for a token.
#[derive(Debug)]
pub(super) struct Cold {
    key: ParsedPublicKey,
    raw: Figures,
    batch: Figures,
    proxy: Figures,
    /// The bare check by a token of a batch, in the same round.
    batch_ratio: Figures,
    proxy_ratio: Figures,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Verified {
    /// The bare check of the same bytes by the same library, on the sidecar's core.
    pub(super) raw_cpu_us: f64,
    /// The sidecar's process, for a token in a batch of 1,024: the rpc, the whole decision and the answer.
    pub(super) batch_cpu_us: f64,
    /// The sidecar's process, for a call with a token of its own.
    pub(super) proxy_cpu_us: f64,
    /// What of it a call with a known token has not, from the load of the same caller.
    pub(super) proxy_more_than_known_cpu_us: f64,
    /// Tokens in batches per second of processor time, by bare checks.
    pub(super) batch_by_raw: f64,
    /// The same through the proxy.
    pub(super) proxy_by_raw: f64,
    /// The same for what a cold token adds to a call.
    pub(super) proxy_addition_by_raw: f64,
}

impl Cold {
    /// With the key of the run's tokens.
    pub(super) fn of(run: &Run<'_>) -> Result<Self, Failure> {
        let keys = read_set(run.stage.keys.as_bytes(), &AwsLc)?;
        let token = CompactJws::parse(run.stage.token.as_bytes())?;
        let key = keys.iter().find(|key| *key.key_id() == token.key_id);
        Ok(Self {
            key: verify_cold::raw_key(key.ok_or("the authority does not tell its key")?)?,
            raw: Figures::default(),
            batch: Figures::default(),
            proxy: Figures::default(),
            batch_ratio: Figures::default(),
            proxy_ratio: Figures::default(),
        })
    }

    /// All three, each on tokens that it has not seen.
    pub(super) fn round(&mut self, run: &Run<'_>) -> Result<(), Failure> {
        let (stage, count) = (&run.stage, run.scale.of(ROUND));
        let fresh = || run.runtime.block_on(stage.issuer.issue_many(count));
        let tokens = fresh()?;
        let raw = cores::on_the_servers(|| verify_cold::raw_round(&self.key, &tokens))?;

        let used = scheduled(stage.answerer.process)?;
        run.runtime.block_on(async {
            let mut api = stage.answerer.sidecar.verify_api()?;
            for batch in tokens.chunks(BATCH) {
                api.allows_all(batch).await?;
            }
            Ok::<_, Failure>(())
        })?;
        let batch = scheduled(stage.answerer.process)?.since(used).ran;

        let (tokens, peer) = (fresh()?, stage.peer(OURS)?);
        let load = Load {
            calls: count,
            ..scaled(FULL, run.scale)
        };
        let used = peer.scheduled()?;
        let calls = load::call_with(load, peer.address, Tokens::InTurn(&tokens));
        run.runtime.block_on(calls)?;
        let proxy = peer.scheduled()?.since(used).ran;

        let [raw, batch, proxy] = [raw, batch, proxy].map(|used| micros(used) / float(count));
        self.raw.push(raw);
        self.batch.push(batch);
        self.proxy.push(proxy);
        self.batch_ratio.push(raw / batch);
        self.proxy_ratio.push(raw / proxy);
        Ok(())
    }

    pub(super) fn verified(&self, stage: &Stage) -> Result<Verified, Failure> {
        let rounds = stage.peer(OURS)?.rounds.get(OTHER_CALLER);
        let known = rounds.ok_or("no load had known tokens")?.cpu_us_per_call();
        let (raw, proxy) = (self.raw.median(), self.proxy.median());
        Ok(Verified {
            raw_cpu_us: raw,
            batch_cpu_us: self.batch.median(),
            proxy_cpu_us: proxy,
            proxy_more_than_known_cpu_us: proxy - known,
            batch_by_raw: self.batch_ratio.median(),
            proxy_by_raw: self.proxy_ratio.median(),
            proxy_addition_by_raw: raw / (proxy - known),
        })
    }
}
