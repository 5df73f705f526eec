//! Registers the environment's two clients, and finds them as it left them at the next start.

use countersign_proto::admin::v1;
use tonic::Code;

use super::layout::{
    AUDIENCE, BILLING, Layout, ORDERS, ORDERS_ID, OTHER_AUDIENCE, OTHER_SCOPE, SCOPE, identity,
};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::files::{self, Audience};
use crate::output::Output;

/// Registers what is not registered. What an operator has changed since stays changed.
///
/// # Errors
/// When the authority does not answer.
pub(super) async fn register(
    connection: &Connection,
    layout: &Layout,
    output: Output,
) -> Result<(), Failure> {
    let orders = v1::CreateClientRequest {
        client_id: ORDERS.to_owned(),
        description: "authenticates by its certificate".to_owned(),
        grants: grants(),
        spiffe_ids: vec![identity(ORDERS_ID)?.as_str().to_owned()],
        ..v1::CreateClientRequest::default()
    };
    create(connection, orders).await?;
    let billing = v1::CreateClientRequest {
        client_id: BILLING.to_owned(),
        description: "authenticates by its secret".to_owned(),
        grants: grants(),
        with_secret: true,
        ..v1::CreateClientRequest::default()
    };
    match create(connection, billing).await? {
        Some(secret) => keep(layout, &secret),
        None if layout.billing_secret.exists() => Ok(()),
        None => renew(connection, layout, output).await,
    }
}

fn grants() -> Vec<v1::Grant> {
    let grant = |audience: &str, scopes: &[&str], default: &str| v1::Grant {
        audience: audience.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        default_scopes: vec![default.to_owned()],
    };
    vec![
        grant(AUDIENCE, &[SCOPE, OTHER_SCOPE], SCOPE),
        grant(OTHER_AUDIENCE, &["warehouse.read"], "warehouse.read"),
    ]
}

/// The first secret of a client that is new, empty when it has none; nothing when the client is registered already.
async fn create(
    connection: &Connection,
    request: v1::CreateClientRequest,
) -> Result<Option<String>, Failure> {
    let doing = format!("cannot register `{}`", request.client_id);
    match connection.clients().create_client(request).await {
        Ok(answer) => Ok(Some(answer.into_inner().client_secret)),
        Err(status) if status.code() == Code::AlreadyExists => Ok(None),
        Err(status) => Err(Failure::answered(&doing, &status)),
    }
}

fn keep(layout: &Layout, secret: &str) -> Result<(), Failure> {
    files::write(&layout.billing_secret, secret.as_bytes(), Audience::Owner)
}

/// The client is there and its secret is not: a run was broken off between the two, or somebody removed the file.
async fn renew(connection: &Connection, layout: &Layout, output: Output) -> Result<(), Failure> {
    let doing = "cannot renew the secret of `billing`";
    let find = v1::GetClientRequest {
        client_id: BILLING.to_owned(),
    };
    let found = match connection.clients().get_client(find).await {
        Ok(answer) => answer.into_inner().client.unwrap_or_default(),
        Err(status) if status.code() == Code::NotFound => {
            output.warn("the client `billing` was deleted; `countersign dev --reset` starts afresh");
            return Ok(());
        }
        Err(status) => return Err(Failure::answered(doing, &status)),
    };
    for secret in found.secrets {
        let retire = v1::RetireSecretRequest {
            client_id: BILLING.to_owned(),
            secret_id: secret.secret_id,
        };
        let retired = connection.clients().retire_secret(retire).await;
        retired.map_err(|status| Failure::answered(doing, &status))?;
    }
    let add = v1::AddSecretRequest {
        client_id: BILLING.to_owned(),
    };
    let added = connection.clients().add_secret(add).await;
    let secret = added
        .map_err(|status| Failure::answered(doing, &status))?
        .into_inner()
        .client_secret;
    if secret.is_empty() {
        return Err(Failure::new(
            Exit::Failure,
            format!("{doing}: the authority gave none"),
        ));
    }
    keep(layout, &secret)
}
