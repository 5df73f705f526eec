//! The apps behind one sidecar, and the way of each call to one of them.

use std::iter;
use std::sync::{Arc, OnceLock};

use countersign_core::requirements::MethodPath;
use http::uri::Authority;

use super::upstream::{Lane, Upstream};
use crate::routes::Calls;

/// Where the calls of one listener go.
#[derive(Debug)]
pub(crate) struct Apps {
    apps: Box<[Arc<Upstream>]>,
    /// Each to one of the apps, by its place there. The first that leads a call is taken.
    routes: Box<[(Calls, usize)]>,
}

impl Apps {
    /// Those that `routes` lead to.
    pub(crate) fn new(routes: impl IntoIterator<Item = (Calls, Arc<Upstream>)>) -> Self {
        let mut apps: Vec<Arc<Upstream>> = Vec::new();
        let mut place_of = |app: Arc<Upstream>| {
            let known = apps.iter().position(|other| Arc::ptr_eq(other, &app));
            known.unwrap_or_else(|| {
                apps.push(app);
                apps.len() - 1
            })
        };
        let routes = routes.into_iter();
        let routes = routes.map(|(calls, app)| (calls, place_of(app))).collect();
        Self {
            routes,
            apps: apps.into(),
        }
    }
}

/// The ways of one caller's connection to the apps. Its calls to one app begin at the same connection of ours, and one that it never
/// calls is no matter of its.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    apps: Arc<Apps>,
    lanes: Arc<[OnceLock<Lane>]>,
}

impl Ways {
    /// Those of a connection to the listener of `apps`.
    pub(crate) fn new(apps: Arc<Apps>) -> Self {
        let lanes = iter::repeat_with(OnceLock::new).take(apps.apps.len()).collect();
        Self { apps, lanes }
    }

    /// Those of another connection to the same listener.
    pub(crate) fn of_another(&self) -> Self {
        Self::new(Arc::clone(&self.apps))
    }

    /// The app that a call of `method` at `authority` goes to, if it goes anywhere, and where it begins there.
    pub(crate) fn lead(
        &self,
        authority: Option<&Authority>,
        method: MethodPath<'_>,
    ) -> Option<(&Upstream, Lane)> {
        let mut routes = self.apps.routes.iter();
        let (_, place) = routes.find(|(calls, _)| calls.contain(authority, method))?;
        let (app, lane) = (self.apps.apps.get(*place)?, self.lanes.get(*place)?);
        Some((app, *lane.get_or_init(|| app.lane())))
    }
}
