//! `countersign client`: who may ask for tokens, and for which.

mod registration;
mod view;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use countersign_proto::admin::v1;
use serde::Serialize;

use super::pages;
use super::reach::{self, WaitArgs};
use crate::connection::{Connection, ConnectionArgs};
use crate::failure::{Exit, Failure};
use crate::files::SecretFile;
use crate::output::Output;
use registration::RegistrationArgs;
use view::{Client, Secret, table};

/// What to do with clients.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Register a client
    Create(CreateArgs),
    /// Show all clients
    List(ListArgs),
    /// Show one client
    Show(OneArgs),
    /// Change what a client may ask for, or how it authenticates. What is not named stays; grants that are named
    /// replace all there were
    Update(UpdateArgs),
    /// Stop a client: it gets no tokens, and those it has are revoked
    Disable(DisableArgs),
    /// Let a disabled client ask for tokens again. Those revoked stay revoked
    Enable(OneArgs),
    /// Remove a client for good, and revoke its tokens
    Delete(DeleteArgs),
    /// Add and retire secrets
    #[command(subcommand)]
    Secret(SecretCommand),
}

/// What to do with a client's secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Make a new secret. Earlier ones stay valid until they are retired; there are two at most
    Add(AddSecretArgs),
    /// End a secret at once
    Retire(RetireSecretArgs),
}

/// A new client.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The client's identifier: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`
    #[arg(value_name = "CLIENT")]
    client_id: String,

    #[command(flatten)]
    registration: RegistrationArgs,

    /// Make a first secret
    #[arg(long)]
    with_secret: bool,

    /// Where to write the secret: a new file, or `-` for stdout
    #[arg(long, value_name = "FILE", default_value = "-", requires = "with_secret")]
    secret_file: PathBuf,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Where.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// One client.
#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The client
    #[arg(value_name = "CLIENT", index = 1)]
    client_id: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A change.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The client
    #[arg(value_name = "CLIENT")]
    client_id: String,

    #[command(flatten)]
    registration: RegistrationArgs,

    /// Take away all SPIFFE IDs
    #[arg(long, conflicts_with = "spiffe_ids")]
    no_spiffe_ids: bool,

    /// Take away all certificates
    #[arg(long, conflicts_with_all = ["certificates", "thumbprints"])]
    no_certificates: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which client.
#[derive(Debug, Args)]
pub(crate) struct DisableArgs {
    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    one: OneArgs,
}

/// Which client.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    one: OneArgs,
}

/// Whose secret.
#[derive(Debug, Args)]
pub(crate) struct AddSecretArgs {
    /// Where to write the secret: a new file, or `-` for stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    secret_file: PathBuf,

    #[command(flatten)]
    one: OneArgs,
}

/// Which secret.
#[derive(Debug, Args)]
pub(crate) struct RetireSecretArgs {
    /// The secret's identifier, as `client show` lists it
    #[arg(index = 2)]
    secret_id: String,

    #[command(flatten)]
    one: OneArgs,
}

/// Registers, shows, changes clients.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(command: ClientCommand, output: Output) -> Result<(), Failure> {
    match command {
        ClientCommand::Create(args) => create(args, output).await,
        ClientCommand::List(args) => list(&args.connection, output).await,
        ClientCommand::Show(args) => show(&args, output).await,
        ClientCommand::Update(args) => update(args, output).await,
        ClientCommand::Disable(args) => disable(args, output).await,
        ClientCommand::Enable(args) => enable(args, output).await,
        ClientCommand::Delete(args) => delete(args, output).await,
        ClientCommand::Secret(SecretCommand::Add(args)) => add_secret(args, output).await,
        ClientCommand::Secret(SecretCommand::Retire(args)) => retire_secret(args, output).await,
    }
}

async fn create(args: CreateArgs, output: Output) -> Result<(), Failure> {
    let registration = args.registration.read(v1::Client::default())?;
    if registration.grants.is_empty() {
        return Err(Failure::usage("a client that may ask for nothing is no use")
            .next("name an audience and its scopes: `--grant AUDIENCE=SCOPE,SCOPE`"));
    }
    let place = Place::prepare(&args.secret_file)?;
    let connection = Connection::operator(&args.connection).await?;
    let request = v1::CreateClientRequest {
        client_id: args.client_id.clone(),
        description: registration.description,
        grants: registration.grants,
        spiffe_ids: registration.spiffe_ids,
        certificate_thumbprints: registration.certificate_thumbprints,
        token_binding: registration.token_binding,
        with_secret: args.with_secret,
    };
    let answer = connection.clients().create_client(request).await;
    let doing = format!("cannot register `{}`", args.client_id);
    let answer = answer
        .map_err(|status| Failure::answered(&doing, &status))?
        .into_inner();
    let client = Client::read(answer.client)?;
    if args.with_secret {
        let what = format!("registered `{}`", args.client_id);
        return hand_over(
            &what,
            &args.client_id,
            &answer.client_secret,
            place,
            &client,
            output,
        );
    }
    output.data(&client, |paint| client.details(paint))
}

/// Where a new secret goes.
#[derive(Debug)]
enum Place {
    Stdout,
    File(SecretFile),
}

impl Place {
    /// Makes the place before the secret, which cannot be shown again.
    fn prepare(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        SecretFile::create(path).map(Self::File)
    }
}

/// Gives a new secret to whoever asked: to a file or, by itself, on stdout. `what` was done already.
fn hand_over<T: Serialize>(
    what: &str,
    client_id: &str,
    secret: &str,
    place: Place,
    about: &T,
    output: Output,
) -> Result<(), Failure> {
    let path = match place {
        Place::Stdout => None,
        Place::File(file) => {
            let path = file.path().to_owned();
            let written = file.write(secret.as_bytes());
            written.map_err(|failure| lost(what, client_id, failure))?;
            Some(path)
        }
    };
    if output.is_json() {
        let mut json =
            serde_json::to_value(about).map_err(|error| Failure::because("cannot write JSON", &error))?;
        if let (None, Some(object)) = (&path, json.as_object_mut()) {
            object.insert("client_secret".to_owned(), secret.into());
        }
        let told = output.deliver(&format!("{json:#}"));
        return told.map_err(|failure| match path {
            None => lost(what, client_id, failure),
            Some(_) => failure,
        });
    }
    match path {
        None => {
            output.note(&format!("{what}; its secret follows, and cannot be shown again"));
            let told = output.deliver(secret);
            told.map_err(|failure| lost(what, client_id, failure))
        }
        Some(path) => {
            output.note(&format!("{what}; its secret is in `{}`", path.display()));
            Ok(())
        }
    }
}

fn lost(what: &str, client_id: &str, failure: Failure) -> Failure {
    Failure {
        message: format!("{what}, but its secret is lost: {}", failure.message),
        ..failure
    }
    .next(format!(
        "`countersign client show {client_id}` names the secret; end it with `countersign client secret retire {client_id} \
         SECRET_ID`, and make another with `countersign client secret add {client_id}`"
    ))
}

async fn list(args: &ConnectionArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(args).await?;
    let mut service = connection.clients();
    let listed = pages::all("cannot list the clients", async |page_token| {
        let request = v1::ListClientsRequest {
            page_size: pages::SIZE,
            page_token,
        };
        let page = service.list_clients(request).await?.into_inner();
        Ok((page.clients, page.next_page_token))
    });
    let clients = listed.await?.into_iter().map(|client| Client::read(Some(client)));
    let clients = clients.collect::<Result<Vec<Client>, Failure>>()?;
    output.data(&clients, |paint| table(&clients, paint))
}

async fn find(connection: &Connection, client_id: &str) -> Result<v1::Client, Failure> {
    let request = v1::GetClientRequest {
        client_id: client_id.to_owned(),
    };
    let answer = connection.clients().get_client(request).await;
    let doing = format!("cannot show `{client_id}`");
    let answer = answer
        .map_err(|status| Failure::answered(&doing, &status))?
        .into_inner();
    answer.client.ok_or_else(nothing)
}

async fn show(args: &OneArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let client = Client::read(Some(find(&connection, &args.client_id).await?))?;
    output.data(&client, |paint| client.details(paint))
}

async fn update(args: UpdateArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let mut current = find(&connection, &args.client_id).await?;
    if args.no_spiffe_ids {
        current.spiffe_ids.clear();
    }
    if args.no_certificates {
        current.certificate_thumbprints.clear();
    }
    let version = current.version;
    let changed = args.registration.read(current)?;
    let request = v1::UpdateClientRequest {
        client_id: args.client_id.clone(),
        version,
        description: changed.description,
        grants: changed.grants,
        spiffe_ids: changed.spiffe_ids,
        certificate_thumbprints: changed.certificate_thumbprints,
        token_binding: changed.token_binding,
    };
    let answer = connection.clients().update_client(request).await;
    let doing = format!("cannot change `{}`", args.client_id);
    let answer = answer
        .map_err(|status| Failure::answered(&doing, &status))?
        .into_inner();
    let client = Client::read(answer.client)?;
    output.data(&client, |paint| client.details(paint))
}

async fn disable(args: DisableArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.one.connection).await?;
    let client_id = args.one.client_id.clone();
    let answer = connection
        .clients()
        .disable_client(v1::DisableClientRequest { client_id })
        .await;
    let doing = format!("cannot disable `{}`", args.one.client_id);
    let answer = answer.map_err(|status| Failure::answered(&doing, &status))?;
    let done = serde_json::json!({ "client_id": args.one.client_id, "disabled": true });
    let told = format!("disabled `{}`; its tokens are revoked", args.one.client_id);
    let reach = answer.into_inner().reach;
    reach::tell(&connection, &done, &told, reach, args.wait, output).await
}

async fn enable(args: OneArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.connection).await?;
    let client_id = args.client_id.clone();
    let answer = connection
        .clients()
        .enable_client(v1::EnableClientRequest { client_id })
        .await;
    let doing = format!("cannot enable `{}`", args.client_id);
    answer.map_err(|status| Failure::answered(&doing, &status))?;
    let value = serde_json::json!({ "client_id": args.client_id, "disabled": false });
    output.data(&value, |_| format!("enabled `{}`", args.client_id))
}

async fn delete(args: DeleteArgs, output: Output) -> Result<(), Failure> {
    let client_id = args.one.client_id.clone();
    let consequence =
        "the client is removed for good and its tokens are revoked; its name is not given out again";
    output.confirm(consequence, &client_id, args.yes)?;
    let connection = Connection::operator(&args.one.connection).await?;
    let answer = connection
        .clients()
        .delete_client(v1::DeleteClientRequest { client_id })
        .await;
    let doing = format!("cannot delete `{}`", args.one.client_id);
    let answer = answer.map_err(|status| Failure::answered(&doing, &status))?;
    let done = serde_json::json!({ "client_id": args.one.client_id, "deleted": true });
    let told = format!("deleted `{}`; its tokens are revoked", args.one.client_id);
    let reach = answer.into_inner().reach;
    reach::tell(&connection, &done, &told, reach, args.wait, output).await
}

async fn add_secret(args: AddSecretArgs, output: Output) -> Result<(), Failure> {
    let place = Place::prepare(&args.secret_file)?;
    let connection = Connection::operator(&args.one.connection).await?;
    let client_id = args.one.client_id.clone();
    let answer = connection
        .clients()
        .add_secret(v1::AddSecretRequest { client_id })
        .await;
    let doing = format!("cannot add a secret to `{}`", args.one.client_id);
    let answer = answer
        .map_err(|status| Failure::answered(&doing, &status))?
        .into_inner();
    let secret = Secret::read(answer.secret.ok_or_else(nothing)?);
    let what = format!("`{}` has a new secret `{}`", args.one.client_id, secret.secret_id);
    hand_over(
        &what,
        &args.one.client_id,
        &answer.client_secret,
        place,
        &secret,
        output,
    )
}

async fn retire_secret(args: RetireSecretArgs, output: Output) -> Result<(), Failure> {
    let connection = Connection::operator(&args.one.connection).await?;
    let request = v1::RetireSecretRequest {
        client_id: args.one.client_id.clone(),
        secret_id: args.secret_id.clone(),
    };
    let answer = connection.clients().retire_secret(request).await;
    let doing = format!("cannot retire secret `{}`", args.secret_id);
    answer.map_err(|status| Failure::answered(&doing, &status))?;
    let value =
        serde_json::json!({ "client_id": args.one.client_id, "secret_id": args.secret_id, "retired": true });
    output.data(&value, |_| {
        format!("retired secret `{}` of `{}`", args.secret_id, args.one.client_id)
    })
}

fn nothing() -> Failure {
    Failure::new(Exit::Failure, "the authority answered without the client")
}
