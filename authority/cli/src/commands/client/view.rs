//! Clients as they are shown: as JSON for programs, as tables for people.

use countersign_proto::admin::v1;
use serde::Serialize;

use super::nothing;
use crate::failure::Failure;
use crate::output::{Paint, Text, Tone};
use crate::present;

#[derive(Debug, Serialize)]
pub(super) struct Client {
    pub(super) client_id: String,
    pub(super) description: String,
    disabled: bool,
    pub(super) grants: Vec<Grant>,
    pub(super) spiffe_ids: Vec<String>,
    pub(super) certificate_thumbprints: Vec<String>,
    token_binding: Option<&'static str>,
    pub(super) secrets: Vec<Secret>,
    version: u64,
    pub(super) created_at: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Grant {
    pub(super) audience: String,
    pub(super) scopes: Vec<String>,
    pub(super) default_scopes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Secret {
    pub(super) secret_id: String,
    pub(super) created_at: Option<String>,
}

impl Client {
    pub(super) fn read(client: Option<v1::Client>) -> Result<Self, Failure> {
        let client = client.ok_or_else(nothing)?;
        let token_binding = match client.token_binding() {
            v1::TokenBinding::Certificate => Some("certificate"),
            v1::TokenBinding::SpiffeId => Some("spiffe_id"),
            // An authority from before there was a choice.
            v1::TokenBinding::Unspecified => None,
        };
        let grants = client.grants.into_iter().map(|grant| Grant {
            audience: grant.audience,
            scopes: grant.scopes,
            default_scopes: grant.default_scopes,
        });
        Ok(Self {
            client_id: client.client_id,
            description: client.description,
            disabled: client.disabled,
            grants: grants.collect(),
            spiffe_ids: client.spiffe_ids,
            certificate_thumbprints: client.certificate_thumbprints,
            token_binding,
            secrets: client.secrets.into_iter().map(Secret::read).collect(),
            version: client.version,
            created_at: present::wire_time(client.created_at.as_ref()),
        })
    }

    fn state(&self) -> Text {
        if self.disabled {
            Text::toned("disabled", Tone::Bad)
        } else {
            Text::toned("enabled", Tone::Good)
        }
    }

    /// The client for people, one fact in a row.
    pub(super) fn details(&self, paint: Paint) -> String {
        let mut rows: Vec<Vec<Text>> = vec![
            vec!["client".into(), self.client_id.as_str().into()],
            vec!["state".into(), self.state()],
            vec![
                "description".into(),
                present::optional(Some(self.description.clone()).filter(|d| !d.is_empty())),
            ],
        ];
        for grant in &self.grants {
            let scopes = grant.scopes.iter().map(|scope| {
                let default = if grant.default_scopes.contains(scope) {
                    " (default)"
                } else {
                    ""
                };
                format!("{scope}{default}")
            });
            let scopes = scopes.collect::<Vec<_>>().join(", ");
            rows.push(vec![
                "grant".into(),
                format!("{}: {scopes}", grant.audience).into(),
            ]);
        }
        let mut each = |name: &str, values: &[String]| {
            rows.extend(
                values
                    .iter()
                    .map(|value| vec![name.into(), value.as_str().into()]),
            );
        };
        each("spiffe id", &self.spiffe_ids);
        each("certificate", &self.certificate_thumbprints);
        rows.push(vec![
            "tokens bound to".into(),
            present::optional(self.token_binding.map(str::to_owned)),
        ]);
        for secret in &self.secrets {
            let since = secret.created_at.clone().unwrap_or_default();
            rows.push(vec![
                "secret".into(),
                format!("{} since {since}", secret.secret_id).into(),
            ]);
        }
        rows.push(vec!["version".into(), self.version.to_string().into()]);
        rows.push(vec![
            "registered".into(),
            present::optional(self.created_at.clone()),
        ]);
        paint.table(&["FACT", "VALUE"], rows)
    }
}

impl Secret {
    pub(super) fn read(secret: v1::ClientSecret) -> Self {
        Self {
            created_at: present::wire_time(secret.created_at.as_ref()),
            secret_id: secret.secret_id,
        }
    }
}

pub(super) fn table(clients: &[Client], paint: Paint) -> String {
    if clients.is_empty() {
        return "no client is registered".to_owned();
    }
    let rows = clients.iter().map(|client| {
        let audiences: Vec<String> = client.grants.iter().map(|grant| grant.audience.clone()).collect();
        vec![
            client.client_id.as_str().into(),
            client.state(),
            present::list(&audiences),
            (client.spiffe_ids.len() + client.certificate_thumbprints.len())
                .to_string()
                .into(),
            client.secrets.len().to_string().into(),
            present::optional(client.created_at.clone()),
        ]
    });
    let heading = [
        "CLIENT",
        "STATE",
        "AUDIENCES",
        "IDENTITIES",
        "SECRETS",
        "REGISTERED",
    ];
    paint.table(&heading, rows.collect())
}
