//! Whether calls are decided, for gRPC health and for the log.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::freshness::StalenessRules;
use countersign_core::names::ClassName;
use countersign_core::staleness::ClassBudget;
use countersign_verifier::trust::{TrustStatus, TrustStore};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The health of a service that needs trust, as the service's listeners tell it.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// Is told.
    pub(crate) reporter: HealthReporter,
    /// The service's name. Whoever names none is answered the same.
    pub(crate) service: &'static str,
}

/// How often health looks at the clock. Trust grows old by time passing, which nobody announces.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// A first confirmation comes within milliseconds of the trust, and within two heartbeats if the authority has to write down who asks.
const FAIR_CHANCE: Duration = Duration::from_secs(10);

/// Keeps gRPC health in step with the trust: serving while calls of the default class are decided. Tells in the log when the
/// trust begins to be too old for a class, and when it no longer is.
pub(crate) async fn report_health(services: Vec<Health>, trust: Arc<TrustStore>) {
    let mut epochs = trust.changed();
    let mut told = None;
    let mut unconfirmed_since = None;
    loop {
        let status = trust.status();
        let never_confirmed = status.freshness.is_some() && status.age.is_none();
        let now = trust.clock().elapsed();
        unconfirmed_since = never_confirmed.then(|| unconfirmed_since.unwrap_or(now));
        let waited = unconfirmed_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let news = News::of(&status, trust.staleness(), waited);
        if told.as_ref() != Some(&news) {
            news.tell(&status);
            let serving = if status.decides() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for Health { reporter, service } in &services {
                reporter.set_service_status("", serving).await;
                reporter.set_service_status(service, serving).await;
            }
            told = Some(news);
        }
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
    }
}

/// What the log says of the trust in force, whenever it is something else than before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    Cold,
    /// It is not known what time it is.
    ClockInDoubt,
    /// It was never confirmed, and there was hardly time for it.
    Awaited,
    /// It was never confirmed.
    NeverConfirmed,
    Confirmed,
    Unconfirmed,
    /// It is too old for these classes.
    Refusing(Vec<ClassName>),
}

impl News {
    /// What `status` is news of, where trust that was never confirmed has `waited` for it this long.
    fn of(status: &TrustStatus, staleness: &StalenessRules, waited: Duration) -> Self {
        let refused = |class: &&Arc<ClassBudget>| !status.decides_within(&class.budget);
        let refused: Vec<_> = staleness.classes.iter().filter(refused).collect();
        if status.freshness.is_none() {
            Self::Cold
        } else if !status.time_known {
            Self::ClockInDoubt
        } else if status.age.is_none() && waited < FAIR_CHANCE {
            Self::Awaited
        } else if status.age.is_none() {
            Self::NeverConfirmed
        } else if !refused.is_empty() {
            Self::Refusing(refused.iter().map(|class| class.class.clone()).collect())
        } else if status.age.is_some_and(|age| age >= staleness.warn_after) {
            Self::Unconfirmed
        } else {
            Self::Confirmed
        }
    }

    fn tell(&self, status: &TrustStatus) {
        let epoch = status.epoch;
        let age = status.age.map(tracing::field::debug);
        match self {
            Self::Cold => tracing::warn!("there is no trust yet: calls are refused"),
            Self::ClockInDoubt => {
                tracing::error!("the clock reads earlier than times seen here before: calls are refused");
            }
            Self::Awaited => {
                tracing::info!(
                    epoch,
                    "there is trust: calls are refused until the authority confirms it"
                );
            }
            Self::NeverConfirmed => tracing::error!(
                epoch,
                "the authority has not confirmed the trust in force: calls are refused"
            ),
            Self::Confirmed => {
                tracing::info!(epoch, age, "the trust in force is confirmed: calls are decided")
            }
            Self::Unconfirmed => {
                let refuses_in = status.refuses_in().map(tracing::field::debug);
                tracing::warn!(
                    epoch,
                    age,
                    refuses_in,
                    "the authority no longer confirms the trust in force"
                );
            }
            Self::Refusing(classes) => {
                let classes = classes
                    .iter()
                    .map(ClassName::as_str)
                    .collect::<Vec<_>>()
                    .join(" ");
                tracing::error!(
                    epoch,
                    age,
                    classes,
                    "the trust in force is too old: calls of these classes are refused"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
