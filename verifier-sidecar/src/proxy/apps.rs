//! The apps behind one sidecar, and the way of each call to one of them.

use std::iter;
use std::sync::{Arc, OnceLock};

use countersign_core::requirements::MethodPath;
use http::Version;
use http::uri::Authority;

use super::upstream::{Lane, Upstream};
use crate::routes::Calls;

/// Which HTTP an app speaks, and so over which a request goes on to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// Both: a request goes on over the one that it came over.
    #[default]
    Both,
    /// HTTP/1.1 alone. It takes no gRPC.
    Http1,
    /// HTTP/2 alone.
    Http2,
}

impl Speaks {
    /// The version of a request that came as `version`.
    pub(crate) const fn to_it(self, version: Version) -> Version {
        match self {
            Self::Both => version,
            Self::Http1 => Version::HTTP_11,
            Self::Http2 => Version::HTTP_2,
        }
    }
}

/// An app that routes lead to.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) speaks: Speaks,
}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) upstream: &'a Upstream,
    /// Where it begins there.
    pub(crate) lane: Lane,
    pub(crate) speaks: Speaks,
}

/// Where the calls of one listener go.
#[derive(Debug)]
pub(crate) struct Apps {
    apps: Box<[Arc<Upstream>]>,
    /// Each to one of the apps, by its place there. The first that leads a call is taken.
    routes: Box<[(Calls, usize, Speaks)]>,
}

impl Apps {
    /// Those that `routes` lead to.
    pub(crate) fn new(routes: impl IntoIterator<Item = (Calls, App)>) -> Self {
        let mut apps: Vec<Arc<Upstream>> = Vec::new();
        let mut place_of = |app: Arc<Upstream>| {
            let known = apps.iter().position(|other| Arc::ptr_eq(other, &app));
            known.unwrap_or_else(|| {
                apps.push(app);
                apps.len() - 1
            })
        };
        let routes = routes.into_iter();
        let routes = routes.map(|(calls, app)| (calls, place_of(app.upstream), app.speaks));
        let routes = routes.collect();
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

    /// Where a call of `method` at `authority` goes, if it goes anywhere.
    pub(crate) fn lead(&self, authority: Option<&Authority>, method: MethodPath<'_>) -> Option<Way<'_>> {
        let mut routes = self.apps.routes.iter();
        let (_, place, speaks) = routes.find(|(calls, ..)| calls.contain(authority, method))?;
        let (upstream, lane) = (self.apps.apps.get(*place)?, self.lanes.get(*place)?);
        Some(Way {
            upstream,
            lane: *lane.get_or_init(|| upstream.lane()),
            speaks: *speaks,
        })
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

    fn both(upstream: &Arc<Upstream>) -> App {
        App {
            upstream: Arc::clone(upstream),
            speaks: Speaks::Both,
        }
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
        let Some(way) = ways.lead(Some(&authority), method) else {
            return (None, String::new());
        };
        let found = apps
            .iter()
            .position(|known| std::ptr::eq(way.upstream, &***known));
        (found, format!("{:?}", way.lane))
    }

    #[test]
    fn the_first_route_that_leads_a_call_is_taken() {
        let (stock, rest) = (app(), app());
        let routes = [(at("stock"), &stock), (at("stock:1"), &rest), (at("rest"), &rest)];
        let ways = Ways::new(Arc::new(Apps::new(
            routes.map(|(calls, upstream)| (calls, both(upstream))),
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
            routes.map(|(calls, upstream)| (calls, both(upstream))),
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
