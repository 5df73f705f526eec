//! The real authority as a server under load, and the least that could stand in its place: the same rpc over the same
//! mutual TLS, answered with the same bytes every time.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use countersign_authority::app::App;
use countersign_authority::config::Config;
use countersign_cli::pki::{CertificateFiles, Pki, Usage};
use countersign_core::ports::{Clock as _, Entropy as _};
use countersign_core::spiffe::SpiffeId;
use countersign_crypto::AwsLc;
use countersign_mtls::{ClientCertificates, Limits, ServerTls, TlsFiles, TlsListener};
use countersign_proto::token::v1::token_service_server::{TokenService, TokenServiceServer};
use countersign_proto::token::v1::{IssueTokenRequest, IssueTokenResponse};
use countersign_runtime::{Shutdown, SystemClock, telemetry};
use tonic::{Request, Response, Status};

use crate::fixture::{AUDIENCE, Fixture, ISSUED_AT, ISSUER, SCOPE, TRUST_DOMAIN};
use crate::{Failure, child};

/// Certificates of one run, in a folder that parent and children share.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
    roots: PathBuf,
    server: CertificateFiles,
    operator: CertificateFiles,
    client: CertificateFiles,
}

/// Where and how an authority serves.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// Where it keeps what it has. What is there already is taken over.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Its threads, if they are not left to it.
    #[arg(long)]
    pub(crate) workers: Option<usize>,
}

/// What verifiers pin, in the folder of an authority.
pub(crate) const PUBLISHING_KEYS: &str = "publishing-keys.json";

/// Names in the trust domain.
const OPERATOR: &str = "operator";
pub(crate) const CLIENT: &str = "client";

pub(crate) fn identity(name: &str) -> Result<SpiffeId, Failure> {
    Ok(SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/{name}"))?)
}

impl Certificates {
    /// Makes them in `folder`, or finds them there.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        let now = SystemClock.now();
        let pki = Pki::open(&folder.join("pki"), now)?;
        let leaf =
            |name: &str, usage| -> Result<_, Failure> { Ok(pki.leaf(name, &identity(name)?, usage, now)?) };
        Ok(Self {
            folder: folder.to_owned(),
            roots: pki.trust_roots().to_owned(),
            server: leaf("server", Usage::Server)?,
            operator: leaf(OPERATOR, Usage::Client)?,
            client: leaf(CLIENT, Usage::Client)?,
        })
    }

    pub(crate) fn operator(&self) -> TlsFiles {
        self.files(&self.operator)
    }

    pub(crate) fn client(&self) -> TlsFiles {
        self.files(&self.client)
    }

    /// What a server shows.
    pub(crate) fn server(&self) -> TlsFiles {
        self.files(&self.server)
    }

    fn files(&self, leaf: &CertificateFiles) -> TlsFiles {
        TlsFiles {
            certificate: leaf.certificate.clone(),
            private_key: leaf.key.clone(),
            trust_roots: self.roots.clone(),
        }
    }

    /// As an authority is configured that says no more than it must.
    fn configuration(&self, place: &Place) -> Result<String, Failure> {
        let workers = place.workers.map(|workers| format!("workers = {workers}"));
        Ok(format!(
            r#"
issuer = "{ISSUER}"
trust_domain = "{TRUST_DOMAIN}"
listen = "{listen}"
admin = "127.0.0.1:0"
{workers}

[tls]
certificate = "{certificate}"
private_key = "{key}"
trust_roots = "{roots}"

[store]
path = "{store}"

[keys]
key_encryption_key = "{sealing_key}"

[access]
operators = ["{operator}"]
verifiers = ["spiffe://{TRUST_DOMAIN}/sidecar/"]

[limits]
tokens_per_second = 1000000
tokens_burst = 1000000
"#,
            listen = place.listen,
            workers = workers.unwrap_or_default(),
            certificate = self.server.certificate.display(),
            key = self.server.key.display(),
            roots = self.roots.display(),
            store = self.folder.join("store.redb").display(),
            sealing_key = self.folder.join("sealing-key").display(),
            operator = identity(OPERATOR)?,
        ))
    }
}

/// What a client of the bench is registered as.
pub(crate) fn registration() -> Result<countersign_proto::admin::v1::CreateClientRequest, Failure> {
    use countersign_proto::admin::v1::{CreateClientRequest, Grant};
    Ok(CreateClientRequest {
        client_id: "bench".to_owned(),
        grants: vec![Grant {
            audience: AUDIENCE.to_owned(),
            scopes: vec![SCOPE.to_owned()],
            default_scopes: vec![SCOPE.to_owned()],
        }],
        spiffe_ids: vec![identity(CLIENT)?.to_string()],
        ..CreateClientRequest::default()
    })
}

/// Serves as the authority does, its log in a file, until the parent has gone.
pub(crate) fn serve(place: &Place) -> Result<(), Failure> {
    countersign_mtls::install_default_provider();
    let folder = &place.folder;
    let certificates = Certificates::open(folder)?;
    make_sealing_key(&folder.join("sealing-key"))?;
    let file = folder.join("authority.toml");
    fs::write(&file, certificates.configuration(place)?)?;
    let config = Config::load(&file).map_err(|complaints| complaints.to_string())?;
    let runtime = countersign_runtime::build(config.workers)?;
    let log = telemetry::init("countersign-authority", "bench", &config.telemetry)?;
    let app = runtime.block_on(App::build(config, Arc::new(SystemClock)))?;
    fs::write(folder.join(PUBLISHING_KEYS), app.publishing_keys())?;
    let address = app.grpc_address();
    std::thread::spawn(move || runtime.block_on(app.run_until(Shutdown::new())));
    child::report(address, None)?;
    drop(log);
    Ok(())
}

/// Unless there is one.
fn make_sealing_key(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let mut key = [0; 32];
    AwsLc.fill(&mut key)?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(BASE64.encode(key).as_bytes())?;
    Ok(())
}

/// Where the authority's log goes.
pub(crate) fn log(folder: &Path) -> Result<File, Failure> {
    Ok(File::create(folder.join("authority.log"))?)
}

/// Signs a message for every request, and answers with the same token.
struct SameToken {
    answer: IssueTokenResponse,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

#[tonic::async_trait]
impl TokenService for SameToken {
    async fn issue_token(
        &self,
        _request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let signature = self.key.sign(&self.random, &[0x5a; 420]);
        black_box(signature.map_err(|failed| Status::from_error(failed.into()))?);
        Ok(Response::new(self.answer.clone()))
    }
}

/// Serves the least that a token costs, until the parent has gone.
pub(crate) fn serve_same(folder: &Path) -> Result<(), Failure> {
    countersign_mtls::install_default_provider();
    let certificates = Certificates::open(folder)?;
    let fixture = Fixture::new(ISSUED_AT)?;
    let service = SameToken {
        answer: IssueTokenResponse {
            access_token: fixture.token(1, ISSUED_AT)?,
            token_type: "Bearer".to_owned(),
            expires_in: 900,
            scopes: vec![SCOPE.to_owned()],
            audience: AUDIENCE.to_owned(),
        },
        key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &fixture.key.to_pkcs8()?)?,
        random: SystemRandom::new(),
    };
    let tls = ServerTls::load(
        &certificates.server(),
        ClientCertificates::Required,
        Arc::new(SystemClock),
    )?;
    let runtime = countersign_runtime::build(1)?;
    let any = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let listener = runtime.block_on(TlsListener::bind(any, tls, Limits::default()))?;
    let address = listener.local_addr();
    std::thread::spawn(move || {
        runtime.block_on(
            tonic::transport::Server::builder()
                .add_service(TokenServiceServer::new(service))
                .serve_with_incoming(listener),
        )
    });
    child::report(address, None)
}
