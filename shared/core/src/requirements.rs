//! What a method asks of its caller, and the one grammar of method paths.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::names::Scope;
use crate::rejection::Rejection;
use crate::staleness::ClassBudget;

/// The longest method path read, in bytes.
pub const MAX_PATH_LENGTH: usize = 1024;

/// A gRPC method as it stands in `:path`: `/package.Service/Method`, byte for byte. What is judged is what is forwarded,
/// so nothing is normalized and everything else is refused. The path of a request that is HTTP and no gRPC is one, too, in a wider
/// grammar that leaves no second reading either ([`MethodPath::of_http`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodPath<'a> {
    path: &'a str,
    slash: usize,
}

impl<'a> MethodPath<'a> {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Rejection::RequestMalformed`] for dot segments, empty parts, queries, percent escapes and all else that is not
    /// two names of letters, digits, `_` (and `.` between the parts of the service's name).
    pub fn parse(path: &'a str) -> Result<Self, Rejection> {
        let (service, method) = path
            .strip_prefix('/')
            .filter(|_| path.len() <= MAX_PATH_LENGTH)
            .and_then(|rest| rest.split_once('/'))
            .ok_or(Rejection::RequestMalformed)?;
        if is_identifier(method) && service.split('.').all(is_identifier) {
            Ok(Self {
                path,
                slash: service.len() + 1,
            })
        } else {
            Err(Rejection::RequestMalformed)
        }
    }

    /// Reads the `target` of a request that is HTTP and no gRPC: a path, and perhaps a query, which nothing depends on. The last
    /// segment is the method, all before it the service.
    ///
    /// # Errors
    /// [`Rejection::RequestMalformed`] for everything that some server might take for another path: dot segments, empty
    /// segments (a slash at the end makes one), escapes, parameters, fragments, backslashes, bytes that are not ASCII.
    pub fn of_http(target: &'a str) -> Result<Self, Rejection> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments = path
            .strip_prefix('/')
            .filter(|_| path.len() <= MAX_PATH_LENGTH)
            .ok_or(Rejection::RequestMalformed)?;
        let is_plain = segments.is_empty() || segments.split('/').all(is_segment);
        if is_plain && query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            let slash = path.rfind('/').unwrap_or_default();
            Ok(Self { path, slash })
        } else {
            Err(Rejection::RequestMalformed)
        }
    }

    /// The whole path.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.path
    }

    /// `package.Service`; for HTTP, all segments but the last.
    #[must_use]
    pub fn service(self) -> &'a str {
        self.path.get(1..self.slash).unwrap_or_default()
    }

    /// `Method`; for HTTP, the last segment.
    #[must_use]
    pub fn method(self) -> &'a str {
        self.path.get(self.slash + 1..).unwrap_or_default()
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A segment of a path that every server takes for these very bytes: unreserved characters and delimiters without a meaning (RFC
/// 3986, section 2), and no dot segment.
fn is_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@!$&+,=".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
}

impl fmt::Display for MethodPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

impl fmt::Debug for MethodPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MethodPath({})", self.path)
    }
}

/// What a caller must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// All of these scopes.
    pub scopes: Vec<Scope>,
    /// A token that is bound: to the caller's certificate, or to the SPIFFE ID in it.
    pub bound: bool,
    /// The class of the method: how long it is decided on trust that is no longer confirmed.
    pub class: Arc<ClassBudget>,
}

/// How a method may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Without a token. Identity headers are stripped all the same.
    Open,
    /// With a token that meets this.
    Protected(Requirements),
}

/// What becomes of a call that is judged not to be good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It passes, as one of nobody, and what it would have been refused for is told: so that a service can learn who calls it
    /// how before anybody is refused.
    Observe,
}

/// What a table says of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the method was found by, as it was set. Nothing for the default.
    pub pattern: Option<Arc<str>>,
    /// How it may be called.
    pub access: Access,
    /// Whether that is enforced.
    pub mode: Mode,
}

/// The rule of every method: by method, else by service, else the default. For paths of plain HTTP, by path, else by the longest
/// part of it that has one.
#[derive(Clone, Debug)]
pub struct MethodTable {
    methods: BTreeMap<String, Rule>,
    services: BTreeMap<String, Rule>,
    default: Rule,
}

/// A pattern of the table is neither `/package.Service/Method` nor `/package.Service/*`, nor the like for plain HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a method is written `/package.Service/Method`, or `/package.Service/*` for all of a service; a path of plain HTTP `/path`, or `/path/*` for all below it"
)]
pub struct InvalidMethod;

impl MethodTable {
    /// A table in which every method asks for `default`.
    #[must_use]
    pub const fn new(default: Requirements) -> Self {
        Self {
            methods: BTreeMap::new(),
            services: BTreeMap::new(),
            default: Rule {
                pattern: None,
                access: Access::Protected(default),
                mode: Mode::Enforce,
            },
        }
    }

    /// The same table, with this mode where a method is not named.
    #[must_use]
    pub fn by_default(mut self, mode: Mode) -> Self {
        self.default.mode = mode;
        self
    }

    /// Sets the access of a method or path, to be enforced. Answers whether it was not set before ([`MethodTable::set_in`]).
    ///
    /// # Errors
    /// [`InvalidMethod`].
    pub fn set(&mut self, method: &str, access: Access) -> Result<bool, InvalidMethod> {
        self.set_in(Mode::Enforce, method, access)
    }

    /// Sets the access of a method or path or, with `/package.Service/*`, of a whole service or all below a path. Answers whether it
    /// was not set before.
    ///
    /// # Errors
    /// [`InvalidMethod`].
    pub fn set_in(&mut self, mode: Mode, method: &str, access: Access) -> Result<bool, InvalidMethod> {
        let rule = Rule {
            pattern: Some(method.into()),
            access,
            mode,
        };
        let earlier = if let Some(service) = method.strip_suffix("/*").and_then(|rest| rest.strip_prefix('/'))
        {
            if !service.split('/').all(is_segment) {
                return Err(InvalidMethod);
            }
            self.services.insert(service.to_owned(), rule)
        } else {
            let path = MethodPath::of_http(method).map_err(|_malformed| InvalidMethod)?;
            if path.as_str() != method {
                return Err(InvalidMethod);
            }
            self.methods.insert(method.to_owned(), rule)
        };
        Ok(earlier.is_none())
    }

    /// The rule of `method`.
    #[must_use]
    pub fn find(&self, method: MethodPath<'_>) -> &Rule {
        let below = std::iter::successors(Some(method.service()), |part| {
            part.rsplit_once('/').map(|(before, _)| before)
        });
        self.methods
            .get(method.as_str())
            .or_else(|| below.into_iter().find_map(|part| self.services.get(part)))
            .unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G01, G02, G03: one grammar; nothing is read two ways.
    #[test]
    fn only_a_plain_method_path_is_a_method() {
        for path in [
            "",
            "/",
            "*",
            "pkg.Svc/Do",
            "//pkg.Svc/Do",
            "/./pkg.Svc/Do",
            "/x/../pkg.Svc/Do",
            "/pkg.Svc/Do/",
            "/pkg.Svc//Do",
            "/pkg.Svc%2FDo",
            "/pkg%2eSvc/Do",
            "/pkg.Svc/Do;v=1",
            "/pkg.Svc/Do?a=b",
            "/pkg.Svc/Do#f",
            "/pkg.Svc\\Do",
            "/pkg..Svc/Do",
            "/.Svc/Do",
            "/pkg.Svc/",
            "/pkg.Svc/1Do",
            "/pkg.Svc/D\u{f6}",
            "/pkg.Svc/Do ",
            "/pkg.Svc",
        ] {
            assert_eq!(
                MethodPath::parse(path),
                Err(Rejection::RequestMalformed),
                "{path:?}"
            );
        }
        let method = MethodPath::parse("/pkg.v1.Svc/Do_It2").expect("a method");
        assert_eq!((method.service(), method.method()), ("pkg.v1.Svc", "Do_It2"));
    }

    /// G02, for requests that are no gRPC: what two servers may take for two paths is none.
    #[test]
    fn a_path_of_plain_http_has_one_reading() {
        for target in [
            "",
            "*",
            "orders",
            "http://example.com/orders",
            "//orders",
            "/orders/",
            "/orders//17",
            "/./orders",
            "/orders/.",
            "/x/../orders",
            "/orders/%2e%2e/x",
            "/orders%2F17",
            "/orders%2f17",
            "/orders;v=1",
            "/orders;v=1/17",
            "/orders#f",
            "/orders?a#f",
            "/orders?a b",
            "/orders?\u{f6}",
            "/orders\\17",
            "/orders 17",
            "/orders\t",
            "/orders/*",
            "/\u{f6}",
            "/orders/\u{0}",
        ] {
            let read = MethodPath::of_http(target);
            assert_eq!(read, Err(Rejection::RequestMalformed), "{target:?}");
        }
        let name = "x".repeat(MAX_PATH_LENGTH - 1);
        let longest = format!("/{name}");
        for (target, path, service, method) in [
            ("/", "/", "", ""),
            ("/healthz", "/healthz", "", "healthz"),
            ("/orders/17?limit=3&next=%2F", "/orders/17", "orders", "17"),
            ("/v1/orders:search", "/v1/orders:search", "v1", "orders:search"),
            ("/v1/~me/a.b-c_d", "/v1/~me/a.b-c_d", "v1/~me", "a.b-c_d"),
            ("/pkg.v1.Svc/Do", "/pkg.v1.Svc/Do", "pkg.v1.Svc", "Do"),
            (&longest, &longest, "", &name),
        ] {
            let read = MethodPath::of_http(target).expect("a path");
            assert_eq!(
                (read.as_str(), read.service(), read.method()),
                (path, service, method)
            );
        }
        assert_eq!(
            MethodPath::of_http("/pkg.v1.Svc/Do"),
            MethodPath::parse("/pkg.v1.Svc/Do")
        );
        assert!(MethodPath::of_http(&format!("{longest}x")).is_err());
    }

    /// A call has one rule, whether it comes as gRPC or as plain HTTP.
    #[test]
    fn the_longest_part_of_a_path_that_has_a_rule_decides() {
        let mut table = MethodTable::new(Requirements::default());
        for pattern in [
            "/healthz",
            "/",
            "/v1/*",
            "/v1/orders/*",
            "/v1/orders/search",
            "/a.B/*",
        ] {
            assert_eq!(table.set(pattern, Access::Open), Ok(true), "{pattern}");
        }
        for refused in ["/v1/../x", "/v1//*", "/v1/x?a=b", "/v1/", "/v1/*/x", "//*", ""] {
            assert_eq!(table.set(refused, Access::Open), Err(InvalidMethod), "{refused}");
        }
        for (path, pattern) in [
            ("/healthz", Some("/healthz")),
            ("/healthz/deep", None),
            ("/", Some("/")),
            ("/v1", None),
            ("/v1/users", Some("/v1/*")),
            ("/v1/users/17/name", Some("/v1/*")),
            ("/v1/orders", Some("/v1/*")),
            ("/v1/orders/17", Some("/v1/orders/*")),
            ("/v1/orders/17/items", Some("/v1/orders/*")),
            ("/v1/orders/search", Some("/v1/orders/search")),
            ("/v1x/orders", None),
            ("/a.B/C", Some("/a.B/*")),
            ("/a.B/C/d", Some("/a.B/*")),
        ] {
            let found = table.find(MethodPath::of_http(path).expect("a path"));
            assert_eq!(found.pattern.as_deref(), pattern, "{path}");
        }
    }

    #[test]
    fn a_method_goes_before_its_service_and_a_service_before_the_default() {
        let scoped = |scope: &str| {
            Access::Protected(Requirements {
                scopes: vec![Scope::parse(scope).expect("a scope")],
                ..Requirements::default()
            })
        };
        let mut table = MethodTable::new(Requirements::default());
        assert_eq!(table.set("/a.B/*", scoped("service")), Ok(true));
        assert_eq!(table.set("/a.B/C", Access::Open), Ok(true));
        assert_eq!(table.set("/a.B/C", Access::Open), Ok(false));
        for refused in ["/a.*/C", "/*", "*", "a.B/C", "/a.B/C*"] {
            assert_eq!(table.set(refused, Access::Open), Err(InvalidMethod), "{refused}");
        }
        for (path, pattern, access) in [
            ("/a.B/C", Some("/a.B/C"), Access::Open),
            ("/a.B/D", Some("/a.B/*"), scoped("service")),
            ("/a.BB/C", None, Access::Protected(Requirements::default())),
        ] {
            let rule = table.find(MethodPath::parse(path).expect("a method"));
            assert_eq!(
                (rule.pattern.as_deref(), &rule.access),
                (pattern, &access),
                "{path}"
            );
        }
    }
}
