//! `ClientService`: operators register the clients that may ask for tokens.

use std::future::Future;
use std::sync::Arc;

use countersign_core::binding::TokenBinding;
use countersign_core::client::{Client, Registration};
use countersign_core::names::ClientId;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::client_service_server::ClientService;
use countersign_wire::admin::{read_binding, read_client_id, read_registration, write_client};
use countersign_wire::status::{self, Failure};
use countersign_wire::write_time;
use tonic::{Request, Response, Status};

use super::{Action, Desk, ledger_status, page_size};
use crate::fleet::Fleet;

/// The service.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Where operators are served.
    pub desk: Desk,
    /// Who has to hear that a client is stopped.
    pub fleet: Fleet,
}

impl Clients {
    /// Lets an operator do something to the client that the request names.
    async fn serve<Q, R, W>(
        &self,
        name: &'static str,
        request: Request<Q>,
        named: fn(&Q) -> &str,
        work: impl FnOnce(Self, ClientId, Q) -> W + Send + 'static,
    ) -> Result<Response<R>, Status>
    where
        Q: Send + 'static,
        R: Send + 'static,
        W: Future<Output = Result<R, Status>> + Send + 'static,
    {
        let action = |request: &Q| about(name, named(request));
        let clients = self.clone();
        let work = |request: Q| async move {
            let client_id = read_client_id(named(&request))?;
            work(clients, client_id, request).await
        };
        self.desk.serve(request, action, work).await
    }

    /// Identities of another trust domain authenticate nobody here, so they are not registered. Nor are those of operators: to
    /// change clients is one thing, to get tokens another. A verifier's may be, because a service and the sidecar before it
    /// often are one workload with one identity, and what a verifier may do harms nobody.
    fn registration(
        &self,
        description: String,
        grants: &[v1::Grant],
        spiffe_ids: &[String],
        thumbprints: &[String],
        binding: TokenBinding,
    ) -> Result<Registration, Status> {
        let registration = read_registration(description, grants, spiffe_ids, thumbprints, binding)?;
        let ours = &self.desk.ledger.policy().trust_domain;
        if registration.spiffe_ids.iter().any(|id| id.trust_domain() != ours) {
            return Err(status::invalid(
                "spiffe_ids",
                "names an identity of another trust domain",
            ));
        }
        let operators = &self.desk.roles.operators;
        if registration.spiffe_ids.iter().any(|id| operators.contains(id)) {
            return Err(status::failed(Failure::IdentityTaken));
        }
        Ok(registration)
    }

    async fn create(
        self,
        client_id: ClientId,
        request: v1::CreateClientRequest,
    ) -> Result<v1::CreateClientResponse, Status> {
        let binding = read_binding(request.token_binding)?.unwrap_or_default();
        let registration = self.registration(
            request.description,
            &request.grants,
            &request.spiffe_ids,
            &request.certificate_thumbprints,
            binding,
        )?;
        let created = self
            .desk
            .ledger
            .create_client(client_id, registration, request.with_secret);
        let (client, secret) = created.await.map_err(ledger_status)?.answer;
        Ok(v1::CreateClientResponse {
            client: Some(write_client(&client)),
            client_secret: secret.map_or_else(String::new, |secret| secret.secret.expose().to_owned()),
        })
    }

    /// The client as it is. Whoever is deleted is unknown.
    fn find(&self, client_id: &ClientId) -> Result<Arc<Client>, Status> {
        let books = self.desk.ledger.books();
        let client = books.clients.find(client_id.as_str());
        client
            .filter(|client| !client.deleted)
            .map(Arc::clone)
            .ok_or_else(|| status::failed(Failure::ClientUnknown))
    }

    /// What the tokens of the client are bound to as of `version`, the one that the ledger then finds, or refuses to replace.
    fn registered_binding(&self, client_id: &ClientId, version: u64) -> Result<TokenBinding, Status> {
        let client = self.find(client_id)?;
        if client.version != version {
            return Err(status::failed(Failure::VersionMoved));
        }
        Ok(client.registration.binding)
    }

    fn get(&self, client_id: &ClientId) -> Result<v1::GetClientResponse, Status> {
        Ok(v1::GetClientResponse {
            client: Some(write_client(&*self.find(client_id)?)),
        })
    }

    fn list(&self, request: &v1::ListClientsRequest) -> Result<v1::ListClientsResponse, Status> {
        let size = page_size(request.page_size)?;
        let books = self.desk.ledger.books();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                // Who was last on a page stays known, deleted or not.
                ClientId::parse(token)
                    .ok()
                    .filter(|last| books.clients.find(last.as_str()).is_some())
                    .ok_or_else(|| status::invalid("page_token", "is not one that was given out here"))?,
            ),
        };
        let mut rest = books.clients.after(after.as_ref());
        let page: Vec<v1::Client> = rest
            .by_ref()
            .take(size)
            .map(|client| write_client(client))
            .collect();
        let last = page.last().map(|client| client.client_id.clone());
        let more = rest.next().is_some();
        Ok(v1::ListClientsResponse {
            clients: page,
            next_page_token: last.filter(|_| more).unwrap_or_default(),
        })
    }

    async fn update(
        self,
        client_id: ClientId,
        request: v1::UpdateClientRequest,
    ) -> Result<v1::UpdateClientResponse, Status> {
        let binding = match read_binding(request.token_binding)? {
            Some(binding) => binding,
            None => self.registered_binding(&client_id, request.version)?,
        };
        let registration = self.registration(
            request.description,
            &request.grants,
            &request.spiffe_ids,
            &request.certificate_thumbprints,
            binding,
        )?;
        let updated = self
            .desk
            .ledger
            .update_client(client_id, request.version, registration);
        let client = updated.await.map_err(ledger_status)?.answer;
        Ok(v1::UpdateClientResponse {
            client: Some(write_client(&client)),
        })
    }

    async fn add(
        self,
        client_id: ClientId,
        _: v1::AddSecretRequest,
    ) -> Result<v1::AddSecretResponse, Status> {
        let added = self.desk.ledger.add_secret(client_id).await;
        let (secret, created_at) = added.map_err(ledger_status)?.answer;
        Ok(v1::AddSecretResponse {
            secret: Some(v1::ClientSecret {
                secret_id: secret.secret_id,
                created_at: Some(write_time(created_at)),
            }),
            client_secret: secret.secret.expose().to_owned(),
        })
    }
}

/// What is done to a client. What is no identifier is not written down: it may be a secret in the wrong field.
fn about(action: &'static str, client_id: &str) -> Action {
    let is_identifier = ClientId::parse(client_id).is_ok();
    Action::new(action, if is_identifier { client_id } else { "(malformed)" })
}

#[tonic::async_trait]
impl ClientService for Clients {
    async fn create_client(
        &self,
        request: Request<v1::CreateClientRequest>,
    ) -> Result<Response<v1::CreateClientResponse>, Status> {
        self.serve(
            "create_client",
            request,
            |request| &request.client_id,
            Self::create,
        )
        .await
    }

    async fn get_client(
        &self,
        request: Request<v1::GetClientRequest>,
    ) -> Result<Response<v1::GetClientResponse>, Status> {
        let work = |clients: Self, client_id, _| async move { clients.get(&client_id) };
        self.serve("get_client", request, |request| &request.client_id, work)
            .await
    }

    async fn list_clients(
        &self,
        request: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        let action = |_: &v1::ListClientsRequest| Action::new("list_clients", "");
        let clients = self.clone();
        self.desk
            .serve(request, action, |request| async move { clients.list(&request) })
            .await
    }

    async fn update_client(
        &self,
        request: Request<v1::UpdateClientRequest>,
    ) -> Result<Response<v1::UpdateClientResponse>, Status> {
        self.serve(
            "update_client",
            request,
            |request| &request.client_id,
            Self::update,
        )
        .await
    }

    async fn disable_client(
        &self,
        request: Request<v1::DisableClientRequest>,
    ) -> Result<Response<v1::DisableClientResponse>, Status> {
        let work = |clients: Self, client_id, _| async move {
            let disabled = clients.desk.ledger.disable_client(client_id).await;
            let epoch = disabled.map_err(ledger_status)?.books.trust.epoch();
            let reach = clients
                .desk
                .reach_soon(&clients.fleet, epoch, Some(clients.desk.tokens_end()))
                .await;
            Ok(v1::DisableClientResponse {
                epoch,
                reach: Some(reach),
            })
        };
        self.serve("disable_client", request, |request| &request.client_id, work)
            .await
    }

    async fn enable_client(
        &self,
        request: Request<v1::EnableClientRequest>,
    ) -> Result<Response<v1::EnableClientResponse>, Status> {
        let work = |clients: Self, client_id, _| async move {
            let enabled = clients.desk.ledger.enable_client(client_id).await;
            enabled.map_err(ledger_status)?;
            Ok(v1::EnableClientResponse {})
        };
        self.serve("enable_client", request, |request| &request.client_id, work)
            .await
    }

    async fn delete_client(
        &self,
        request: Request<v1::DeleteClientRequest>,
    ) -> Result<Response<v1::DeleteClientResponse>, Status> {
        let work = |clients: Self, client_id, _| async move {
            let deleted = clients.desk.ledger.delete_client(client_id).await;
            let epoch = deleted.map_err(ledger_status)?.books.trust.epoch();
            let reach = clients
                .desk
                .reach_soon(&clients.fleet, epoch, Some(clients.desk.tokens_end()))
                .await;
            Ok(v1::DeleteClientResponse {
                epoch,
                reach: Some(reach),
            })
        };
        self.serve("delete_client", request, |request| &request.client_id, work)
            .await
    }

    async fn add_secret(
        &self,
        request: Request<v1::AddSecretRequest>,
    ) -> Result<Response<v1::AddSecretResponse>, Status> {
        self.serve("add_secret", request, |request| &request.client_id, Self::add)
            .await
    }

    async fn retire_secret(
        &self,
        request: Request<v1::RetireSecretRequest>,
    ) -> Result<Response<v1::RetireSecretResponse>, Status> {
        let work = |clients: Self, client_id, request: v1::RetireSecretRequest| async move {
            let retired = clients.desk.ledger.retire_secret(client_id, request.secret_id);
            retired.await.map_err(ledger_status)?;
            Ok(v1::RetireSecretResponse {})
        };
        self.serve("retire_secret", request, |request| &request.client_id, work)
            .await
    }
}
