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
/// so nothing is normalized and everything else is refused.
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

    /// The whole path.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.path
    }

    /// `package.Service`.
    #[must_use]
    pub fn service(self) -> &'a str {
        self.path.get(1..self.slash).unwrap_or_default()
    }

    /// `Method`.
    #[must_use]
    pub fn method(self) -> &'a str {
        self.path.get(self.slash + 1..).unwrap_or_default()
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
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
    /// A token bound to the caller's certificate.
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

/// What a table says of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the method was found by, as it was set. Nothing for the default.
    pub pattern: Option<Arc<str>>,
    /// How it may be called.
    pub access: Access,
}

/// The rule of every method: by method, else by service, else the default.
#[derive(Clone, Debug)]
pub struct MethodTable {
    methods: BTreeMap<String, Rule>,
    services: BTreeMap<String, Rule>,
    default: Rule,
}

/// A pattern of the table is neither `/package.Service/Method` nor `/package.Service/*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a method is written `/package.Service/Method`, or `/package.Service/*` for all of a service")]
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
            },
        }
    }

    /// Sets the access of a method or, with `/package.Service/*`, of a whole service. Answers whether it was not set before.
    ///
    /// # Errors
    /// [`InvalidMethod`].
    pub fn set(&mut self, method: &str, access: Access) -> Result<bool, InvalidMethod> {
        let rule = Rule {
            pattern: Some(method.into()),
            access,
        };
        let earlier = if let Some(service) = method.strip_suffix("/*").and_then(|rest| rest.strip_prefix('/'))
        {
            if !service.split('.').all(is_identifier) {
                return Err(InvalidMethod);
            }
            self.services.insert(service.to_owned(), rule)
        } else {
            MethodPath::parse(method).map_err(|_malformed| InvalidMethod)?;
            self.methods.insert(method.to_owned(), rule)
        };
        Ok(earlier.is_none())
    }

    /// The rule of `method`.
    #[must_use]
    pub fn find(&self, method: MethodPath<'_>) -> &Rule {
        self.methods
            .get(method.as_str())
            .or_else(|| self.services.get(method.service()))
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
