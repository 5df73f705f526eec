//! What each method asks for.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::names::{ClassName, Scope};
use countersign_core::requirements::{Access, MethodTable, Requirements};
use countersign_core::staleness::{ClassBudget, StalenessBudget};

/// What a caller of a method must have: a good token, and whatever else is asked for.
#[derive(Clone, Debug, Default)]
pub struct Requirement {
    scopes: Vec<String>,
    bound: bool,
    class: Option<(String, Duration)>,
}

impl Requirement {
    /// A good token, and no scope.
    #[must_use]
    pub fn token() -> Self {
        Self::default()
    }

    /// A good token with this scope.
    #[must_use]
    pub fn scope(scope: impl Into<String>) -> Self {
        Self::token().and_scope(scope)
    }

    /// This scope too.
    #[must_use]
    pub fn and_scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// A token that is bound to the caller's certificate (RFC 8705), or to the SPIFFE ID in it.
    #[must_use]
    pub const fn bound(mut self) -> Self {
        self.bound = true;
        self
    }

    /// Calls are of the class `name` and are refused from `budget` after the lease on: the authority is asked for how long a
    /// revocation can go unnoticed by this name. Zero: no call is let in on trust that is not confirmed.
    #[must_use]
    pub fn class(mut self, name: impl Into<String>, budget: Duration) -> Self {
        self.class = Some((name.into(), budget));
        self
    }

    fn check(&self, method: &str) -> Result<Requirements, InvalidMethods> {
        let invalid = |what: &dyn std::fmt::Display| InvalidMethods {
            method: method.to_owned(),
            why: what.to_string(),
        };
        let scopes = self.scopes.iter().map(|scope| Scope::parse(scope));
        let scopes: Result<Vec<Scope>, _> = scopes.collect();
        let class = match &self.class {
            None => Arc::default(),
            Some((name, budget)) => Arc::new(ClassBudget {
                class: ClassName::parse(name).map_err(|error| invalid(&error))?,
                budget: StalenessBudget {
                    revocations: *budget,
                    keys: *budget,
                },
            }),
        };
        Ok(Requirements {
            scopes: scopes.map_err(|error| invalid(&error))?,
            bound: self.bound,
            class,
        })
    }
}

/// The methods, and what each asks for. Whatever is not named asks for a good token, or for what [`Methods::others`] says.
#[derive(Clone, Debug, Default)]
pub struct Methods {
    others: Requirement,
    named: Vec<(String, Option<Requirement>)>,
}

/// A method cannot be asked for what it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{method}`: {why}")]
pub struct InvalidMethods {
    method: String,
    why: String,
}

impl Methods {
    /// What methods ask for that are not named.
    #[must_use]
    pub fn others(mut self, requirement: Requirement) -> Self {
        self.others = requirement;
        self
    }

    /// Anybody may call `method`, which is `/package.Service/Method` or `/package.Service/*`.
    #[must_use]
    pub fn open(mut self, method: impl Into<String>) -> Self {
        self.named.push((method.into(), None));
        self
    }

    /// Callers of `method` need what `requirement` says.
    #[must_use]
    pub fn protect(mut self, method: impl Into<String>, requirement: Requirement) -> Self {
        self.named.push((method.into(), Some(requirement)));
        self
    }

    /// The table of them, and every class that occurs in it.
    pub(crate) fn check(&self) -> Result<(MethodTable, Vec<Arc<ClassBudget>>), InvalidMethods> {
        let others = self.others.check("others")?;
        let mut classes = vec![Arc::clone(&others.class)];
        let mut table = MethodTable::new(others);
        for (method, requirement) in &self.named {
            let access = match requirement {
                None => Access::Open,
                Some(requirement) => Access::Protected(requirement.check(method)?),
            };
            if let Access::Protected(requirements) = &access {
                let same = classes
                    .iter()
                    .find(|class| class.class == requirements.class.class);
                match same {
                    None => classes.push(Arc::clone(&requirements.class)),
                    Some(same) if **same == *requirements.class => {}
                    Some(_) => {
                        return Err(InvalidMethods {
                            method: method.clone(),
                            why: format!(
                                "the class `{}` has another budget elsewhere",
                                requirements.class.class
                            ),
                        });
                    }
                }
            }
            let invalid = |why: String| InvalidMethods {
                method: method.clone(),
                why,
            };
            match table.set(method, access) {
                Ok(true) => {}
                Ok(false) => return Err(invalid("is there twice".to_owned())),
                Err(error) => return Err(invalid(error.to_string())),
            }
        }
        Ok((table, classes))
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::requirements::MethodPath;

    use super::*;

    #[test]
    fn what_is_not_named_asks_for_a_token() {
        let (table, classes) = Methods::default()
            .open("/grpc.health.v1.Health/*")
            .protect("/a.A/Write", Requirement::scope("a.write").bound())
            .check()
            .expect("valid");
        let access = |path: &str| {
            table
                .find(MethodPath::parse(path).expect("a path"))
                .access
                .clone()
        };
        assert_eq!(access("/a.A/Read"), Access::Protected(Requirements::default()));
        assert_eq!(access("/grpc.health.v1.Health/Check"), Access::Open);
        let Access::Protected(write) = access("/a.A/Write") else {
            panic!("it is protected")
        };
        assert!(write.bound && write.scopes == [Scope::parse("a.write").expect("a scope")]);
        assert_eq!(classes.len(), 1);
    }

    /// C04: nothing is open by mistake.
    #[test]
    fn what_makes_no_sense_is_refused() {
        let five = Duration::from_secs(5);
        let cases = [
            (
                Methods::default().open("grpc.health.v1.Health"),
                "a method is written",
            ),
            (Methods::default().open("/a.A/*").open("/a.A/*"), "is there twice"),
            (
                Methods::default().protect("/a.A/B", Requirement::scope("two words")),
                "`/a.A/B`",
            ),
            (
                Methods::default()
                    .others(Requirement::token().class("fast", five))
                    .protect("/a.A/B", Requirement::token().class("fast", 2 * five)),
                "has another budget elsewhere",
            ),
        ];
        for (methods, complaint) in cases {
            let error = methods.check().expect_err(complaint).to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
