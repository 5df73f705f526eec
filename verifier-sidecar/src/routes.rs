//! Which calls a route leads: by the host that is called, and by the method. Of several routes the first that leads a call is
//! taken; for calls out that says which token they get, for calls in which app they reach.

use std::fmt;

use countersign_core::requirements::MethodPath;
use http::uri::Authority;

/// Some calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The host, or host and port, that is called. None: whatever is called.
    pub host: Option<String>,
    /// The methods.
    pub paths: Paths,
}

/// Some methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paths {
    /// All.
    All,
    /// Those whose path begins so.
    Under(String),
    /// This one.
    One(String),
}

/// The text names no methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPaths {
    /// None that are called.
    #[error("is none of `/package.Service/Method`, `/package.Service/*`, `/package.*`")]
    OfCalls,
    /// None that are called or asked for.
    #[error(
        "is none of `/package.Service/Method`, `/package.Service/*`, `/package.*`, `/a/path`, `/a/path/*`"
    )]
    OfRequests,
}

impl Paths {
    /// Reads `/package.Service/Method`, `/package.Service/*` or `/package.*`.
    ///
    /// # Errors
    /// [`InvalidPaths`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidPaths> {
        Self::read(text, |path| MethodPath::parse(path).is_ok()).ok_or(InvalidPaths::OfCalls)
    }

    /// Reads the same, or a path of plain HTTP: `/v1/orders/17` or `/v1/orders/*`.
    ///
    /// # Errors
    /// [`InvalidPaths`] for everything else.
    pub fn parse_any(text: &str) -> Result<Self, InvalidPaths> {
        let is_path = |path: &str| MethodPath::of_http(path).is_ok_and(|read| read.as_str() == path);
        Self::read(text, is_path).ok_or(InvalidPaths::OfRequests)
    }

    fn read(text: &str, is_path: impl Fn(&str) -> bool) -> Option<Self> {
        let Some(prefix) = text.strip_suffix('*') else {
            return is_path(text).then(|| Self::One(text.to_owned()));
        };
        // Whole names only: nothing of `/shop.v1x` is under `/shop.v1.*`.
        let example = match prefix.strip_suffix('.') {
            Some(package) => format!("{package}.S/M"),
            None => format!("{prefix}M"),
        };
        let is_whole = prefix.len() > 1 && prefix.ends_with(['.', '/']) && is_path(&example);
        is_whole.then(|| Self::Under(prefix.to_owned()))
    }

    fn contain(&self, method: MethodPath<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Under(prefix) => method.as_str().starts_with(prefix),
            Self::One(path) => method.as_str() == path,
        }
    }

    fn contain_all_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Under(_) | Self::One(_), Self::All) | (Self::One(_), Self::Under(_)) => false,
            (Self::Under(prefix), Self::Under(path) | Self::One(path)) => path.starts_with(prefix),
            (Self::One(one), Self::One(other)) => one == other,
        }
    }
}

impl Calls {
    /// All there are.
    pub const ALL: Self = Self {
        host: None,
        paths: Paths::All,
    };

    /// Whether a call of `method` at `authority` is one of them.
    pub(crate) fn contain(&self, authority: Option<&Authority>, method: MethodPath<'_>) -> bool {
        let is_called = |host: &String| authority.is_some_and(|authority| is_host(host, authority.as_str()));
        self.host.as_ref().is_none_or(is_called) && self.paths.contain(method)
    }

    /// Whether all of `other` are among them, so that a route of `other` after one of these leads none.
    #[must_use]
    pub fn hide(&self, other: &Self) -> bool {
        let same_host = match (&self.host, &other.host) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(host), Some(other)) => is_host(host, other),
        };
        same_host && self.paths.contain_all_of(&other.paths)
    }
}

/// Whether `host`, with a port or without, names the host of `authority`.
fn is_host(host: &str, authority: &str) -> bool {
    let without_port = || {
        let (before, port) = authority.rsplit_once(':')?;
        // In `[::1]` the last colon is none before a port.
        (!port.ends_with(']')).then_some(before)
    };
    host.eq_ignore_ascii_case(authority) || without_port().is_some_and(|name| host.eq_ignore_ascii_case(name))
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_deref().unwrap_or("*"))?;
        match &self.paths {
            Paths::All => f.write_str("/*"),
            Paths::Under(prefix) => write!(f, "{prefix}*"),
            Paths::One(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>, paths: Option<&str>) -> Calls {
        Calls {
            host: host.map(str::to_owned),
            paths: paths.map_or(Paths::All, |paths| Paths::parse(paths).expect("of the form")),
        }
    }

    fn leads(route: &Calls, authority: &str, path: &str) -> bool {
        let authority: Authority = authority.parse().expect("an authority");
        route.contain(Some(&authority), MethodPath::parse(path).expect("a method"))
    }

    /// G01: one grammar, and whole names in it.
    #[test]
    fn routes_name_whole_methods_services_and_packages() {
        for wrong in [
            "",
            "*",
            "/",
            "/*",
            "shop.v1.Orders/*",
            "/shop.v1.Orders",
            "/shop.v1.Ord*",
            "/shop..v1.*",
            "/../*",
            "/shop.v1.Orders/Get*",
            "/shop.v1.Orders/*/x",
            "/shop.v1.Orders//*",
            "/%61.b/*",
            "/shop.*.Orders/*",
        ] {
            assert_eq!(Paths::parse(wrong), Err(InvalidPaths::OfCalls), "{wrong}");
        }
        for (paths, inside, outside) in [
            (
                "/shop.v1.Orders/Get",
                "/shop.v1.Orders/Get",
                "/shop.v1.Orders/GetAll",
            ),
            ("/shop.v1.Orders/*", "/shop.v1.Orders/Get", "/shop.v1.OrdersX/Get"),
            ("/shop.v1.*", "/shop.v1.Orders/Get", "/shop.v1x.Orders/Get"),
        ] {
            let route = route(None, Some(paths));
            assert!(leads(&route, "127.0.0.1:1", inside), "{paths}");
            assert!(!leads(&route, "127.0.0.1:1", outside), "{paths}");
        }
    }

    /// G01: the grammar of plain HTTP has one reading too, and names whole segments.
    #[test]
    fn routes_of_plain_http_name_whole_paths() {
        for wrong in [
            "", "*", "/*", "v1/*", "/v1/ord*", "/v1//*", "/v1/../*", "/v1/%61", "/v1/a;b", "/v1/?x", "/v1/",
            "/v1/*/x",
        ] {
            assert_eq!(Paths::parse_any(wrong), Err(InvalidPaths::OfRequests), "{wrong}");
        }
        for (paths, inside, outside) in [
            ("/healthz", "/healthz", "/healthz/x"),
            ("/v1/orders/*", "/v1/orders/17/lines", "/v1/ordersx/17"),
            ("/shop.v1.*", "/shop.v1.Orders/Get", "/shop.v1x.Orders/Get"),
        ] {
            let paths = Paths::parse_any(paths).expect(paths);
            assert!(
                paths.contain(MethodPath::of_http(inside).expect("a path")),
                "{inside}"
            );
            assert!(
                !paths.contain(MethodPath::of_http(outside).expect("a path")),
                "{outside}"
            );
        }
    }

    #[test]
    fn routes_go_by_the_host_that_the_app_names() {
        let (any, stock) = (route(None, None), route(Some("stock"), None));
        let (port, v6) = (route(Some("stock:8443"), None), route(Some("[::1]"), None));
        let path = "/a.B/C";
        for (authority, expected) in [
            ("stock", [true, true, false, false]),
            ("STOCK:8443", [true, true, true, false]),
            ("stock:1", [true, true, false, false]),
            ("stock.example.com", [true, false, false, false]),
            ("xstock", [true, false, false, false]),
            ("[::1]:80", [true, false, false, true]),
            ("[::1]", [true, false, false, true]),
            ("[::2]:80", [true, false, false, false]),
        ] {
            let found = [&any, &stock, &port, &v6].map(|route| leads(route, authority, path));
            assert_eq!(found, expected, "{authority}");
        }
        assert!(!stock.contain(None, MethodPath::parse(path).expect("a method")));
        assert_eq!(stock.to_string(), "stock/*");
        assert_eq!(route(None, Some("/a.*")).to_string(), "*/a.*");
    }

    #[test]
    fn a_route_after_one_that_leads_all_its_calls_is_hidden() {
        let all = route(None, None);
        let service = route(None, Some("/a.B/*"));
        let method = route(None, Some("/a.B/C"));
        let hosted = route(Some("stock"), Some("/a.B/C"));
        for (first, then) in [
            (&all, &service),
            (&all, &hosted),
            (&service, &method),
            (&service, &hosted),
            (&method, &method),
            (&route(Some("stock"), None), &route(Some("STOCK:8443"), None)),
            (&route(Some("[::1]"), None), &route(Some("[::1]:80"), None)),
        ] {
            assert!(first.hide(then), "{first} {then}");
        }
        for (first, then) in [
            (&service, &all),
            (&method, &service),
            (&hosted, &method),
            (&route(Some("other"), None), &hosted),
            (&route(Some("stock:8443"), None), &hosted),
            (&route(Some("stock:8443"), None), &route(Some("stock:8444"), None)),
        ] {
            assert!(!first.hide(then), "{first} {then}");
        }
    }
}
