//! What options say of a client: its grants and identities, over what is registered already.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use countersign_proto::admin::v1;

use crate::failure::Failure;
use crate::pki;

/// What a client may ask for, and how it authenticates.
#[derive(Debug, Default, Args)]
pub(super) struct RegistrationArgs {
    /// For people
    #[arg(long)]
    description: Option<String>,

    /// An audience and the scopes that may be asked for with it; repeat for more
    #[arg(long = "grant", value_name = "AUDIENCE=SCOPE,SCOPE", value_parser = grant)]
    grants: Vec<Scoped>,

    /// The scopes given when none is asked for. Without it, all those of the grant
    #[arg(long = "default", value_name = "AUDIENCE=SCOPE,SCOPE", value_parser = grant, requires = "grants")]
    defaults: Vec<Scoped>,

    /// A SPIFFE ID that authenticates it; repeat for more
    #[arg(long = "spiffe-id", value_name = "SPIFFE_ID")]
    spiffe_ids: Vec<String>,

    /// A certificate that authenticates it, PEM; repeat for more
    #[arg(long = "certificate", value_name = "FILE")]
    certificates: Vec<PathBuf>,

    /// The same by its thumbprint (`x5t#S256`); repeat for more
    #[arg(long = "thumbprint", value_name = "THUMBPRINT", allow_hyphen_values = true)]
    thumbprints: Vec<String>,

    /// What its tokens are bound to, when it authenticates by a certificate: to that, or to the SPIFFE ID in it, so that they
    /// outlive its renewal [default for a new client: certificate]
    #[arg(long, value_name = "BINDING")]
    token_binding: Option<Binding>,
}

/// What tokens are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Binding {
    Certificate,
    SpiffeId,
}

impl From<Binding> for v1::TokenBinding {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::Certificate => Self::Certificate,
            Binding::SpiffeId => Self::SpiffeId,
        }
    }
}

/// An audience with scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scoped {
    audience: String,
    scopes: Vec<String>,
}

/// Audiences may contain `=`, for they may be URLs; scopes rarely do. So the last one divides.
fn grant(text: &str) -> Result<Scoped, String> {
    let (audience, scopes) = text.rsplit_once('=').unwrap_or((text, ""));
    if audience.is_empty() {
        return Err("write `AUDIENCE=SCOPE,SCOPE`".to_owned());
    }
    let scopes = scopes.split(',').filter(|scope| !scope.is_empty());
    Ok(Scoped {
        audience: audience.to_owned(),
        scopes: scopes.map(str::to_owned).collect(),
    })
}

impl RegistrationArgs {
    /// `current` with what is said here in place of what was there.
    ///
    /// # Errors
    /// When a certificate cannot be read, or defaults are given for an audience that is not granted.
    pub(super) fn read(&self, mut current: v1::Client) -> Result<v1::Client, Failure> {
        if let Some(description) = &self.description {
            current.description.clone_from(description);
        }
        if !self.grants.is_empty() {
            current.grants = self.grants()?;
        }
        if !self.spiffe_ids.is_empty() {
            current.spiffe_ids.clone_from(&self.spiffe_ids);
        }
        if !self.certificates.is_empty() || !self.thumbprints.is_empty() {
            current.certificate_thumbprints.clone_from(&self.thumbprints);
            for path in &self.certificates {
                current
                    .certificate_thumbprints
                    .push(pki::thumbprint(path)?.to_string());
            }
        }
        if let Some(binding) = self.token_binding {
            current.set_token_binding(binding.into());
        }
        Ok(current)
    }

    fn grants(&self) -> Result<Vec<v1::Grant>, Failure> {
        let mut defaults: BTreeMap<&str, &[String]> = BTreeMap::new();
        for default in &self.defaults {
            defaults.insert(&default.audience, &default.scopes);
        }
        let mut grants = Vec::new();
        for grant in &self.grants {
            let default = defaults.remove(grant.audience.as_str()).unwrap_or(&grant.scopes);
            grants.push(v1::Grant {
                audience: grant.audience.clone(),
                scopes: grant.scopes.clone(),
                default_scopes: default.to_vec(),
            });
        }
        match defaults.keys().next() {
            None => Ok(grants),
            Some(audience) => {
                let message = format!("`--default` is given for `{audience}`, which is not granted");
                Err(Failure::usage(message).next(format!("add `--grant {audience}=SCOPE`")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scoped(text: &str) -> Scoped {
        grant(text).expect("a grant")
    }

    #[test]
    fn a_grant_is_an_audience_and_scopes() {
        assert_eq!(scoped("demo=a,b").scopes, ["a", "b"]);
        assert_eq!(scoped("demo").scopes, [""; 0]);
        assert_eq!(scoped("https://x/?y=z=a").audience, "https://x/?y=z");
        assert!(grant("=a").is_err());
    }

    #[test]
    fn all_scopes_are_given_by_default_unless_it_is_said_which() {
        let args = RegistrationArgs {
            grants: vec![scoped("demo=a,b"), scoped("other=c")],
            defaults: vec![scoped("demo=a")],
            ..RegistrationArgs::default()
        };
        let grants = args.grants().expect("grants");
        assert_eq!(grants[0].default_scopes, ["a"]);
        assert_eq!(grants[1].default_scopes, ["c"]);
        let args = RegistrationArgs {
            grants: vec![scoped("demo=a")],
            defaults: vec![scoped("elsewhere=a")],
            ..RegistrationArgs::default()
        };
        assert!(args.grants().is_err());
    }

    #[test]
    fn what_is_not_named_stays() {
        let current = v1::Client {
            description: "old".to_owned(),
            spiffe_ids: vec!["spiffe://dev.test/a".to_owned()],
            token_binding: v1::TokenBinding::SpiffeId.into(),
            ..v1::Client::default()
        };
        let args = RegistrationArgs {
            description: Some("new".to_owned()),
            thumbprints: vec!["t".to_owned()],
            ..RegistrationArgs::default()
        };
        let changed = args.read(current).expect("read");
        assert_eq!(changed.description, "new");
        assert_eq!(changed.spiffe_ids, ["spiffe://dev.test/a"]);
        assert_eq!(changed.certificate_thumbprints, ["t"]);
        assert_eq!(changed.token_binding(), v1::TokenBinding::SpiffeId);
        let args = RegistrationArgs {
            token_binding: Some(Binding::Certificate),
            ..RegistrationArgs::default()
        };
        let changed = args.read(changed).expect("read");
        assert_eq!(changed.token_binding(), v1::TokenBinding::Certificate);
    }
}
