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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::proxy::{Dial, UpstreamAddress};
    use crate::routes::Paths;

    fn app() -> Arc<Upstream> {
        let address = UpstreamAddress::Unix(PathBuf::from("/nowhere"));
        Arc::new(Upstream::dialling(Dial::Plaintext(address), 4))
    }

    fn at(host: &str) -> Calls {
        Calls {
            host: Some(host.to_owned()),
            paths: Paths::All,
        }
    }

    /// Which of `apps` a call of `host` goes to, and where it begins there.
    fn led(ways: &Ways, host: &str, apps: &[&Arc<Upstream>]) -> (Option<usize>, String) {
        let authority = host.parse().expect("an authority");
        let method = MethodPath::parse("/a.B/C").expect("a method");
        let Some((app, lane)) = ways.lead(Some(&authority), method) else {
            return (None, String::new());
        };
        let found = apps.iter().position(|known| std::ptr::eq(app, &***known));
        (found, format!("{lane:?}"))
    }

    #[test]
    fn the_first_route_that_leads_a_call_is_taken() {
        let (stock, rest) = (app(), app());
        let routes = [(at("stock"), &stock), (at("stock:1"), &rest), (at("rest"), &rest)];
        let ways = Ways::new(Arc::new(Apps::new(
            routes.map(|(calls, app)| (calls, Arc::clone(app))),
        )));
        let to = |host| led(&ways, host, &[&stock, &rest]).0;
        assert_eq!((to("stock:1"), to("rest"), to("else")), (Some(0), Some(1), None));
    }

    /// Callers of one app are spread over its connections, whoever calls the others meanwhile.
    #[test]
    fn every_app_spreads_its_own_callers() {
        let (stock, rest) = (app(), app());
        let routes = [(at("stock"), &stock), (at("shop"), &stock), (Calls::ALL, &rest)];
        let listener = Ways::new(Arc::new(Apps::new(
            routes.map(|(calls, app)| (calls, Arc::clone(app))),
        )));
        for caller in 0..3 {
            let (one, other) = (listener.of_another(), listener.of_another());
            let begins = format!("Lane({caller})");
            for _ in 0..2 {
                for (ways, host, app) in [(&one, "stock", 0), (&one, "shop", 0), (&other, "else", 1)] {
                    assert_eq!(led(ways, host, &[&stock, &rest]), (Some(app), begins.clone()));
                }
            }
        }
    }
}
