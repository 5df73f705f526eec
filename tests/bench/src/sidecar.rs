//! The real sidecar as a server under load: built from a configuration file, with trust that is put in force by hand, on
//! two runtimes as its own command does it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_cli::pki::{Pki, Usage};
use countersign_core::jose::Algorithm;
use countersign_core::jwk::write_set;
use countersign_core::ports::Clock as _;
use countersign_core::spiffe::SpiffeId;
use countersign_crypto::SigningKey;
use countersign_runtime::{Shutdown, SystemClock, Workers};
use countersign_sidecar::app::App;
use countersign_sidecar::config::Config;

use crate::fixture::{AUDIENCE, Fixture, ISSUER, SCOPE, TRUST_DOMAIN};
use crate::{Failure, child};

/// Serves in front of `upstream` until the parent has gone.
pub(crate) fn serve(upstream: SocketAddr) -> Result<(), Failure> {
    countersign_mtls::install_default_provider();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sidecar.toml");
    let pki = Pki::open(&folder.path().join("pki"), SystemClock.now())?;
    let publishing = SigningKey::generate(Algorithm::EdDsa)?;
    let publishing_keys = folder.path().join("publishing-keys.json");
    fs::write(&publishing_keys, write_set([publishing.jwk()]))?;
    let place = Place {
        name: "alone",
        state: &folder.path().join("state"),
        upstream,
        // Nobody is there.
        authority: 1,
        publishing_keys: &publishing_keys,
    };
    fs::write(&file, configuration(&pki, &place)?)?;
    let config = Config::load(&file).map_err(|complaints| complaints.to_string())?;
    let fixture = Fixture::new(SystemClock.now())?;
    let token = fixture.token(1, SystemClock.now())?;

    let calls = Workers::start("countersign-calls", config.workers)?;
    let control = countersign_runtime::build(1)?;
    let app = control.block_on(App::build(config, Arc::new(SystemClock), &calls.runtimes()))?;
    app.trust()
        .install_cached(fixture.state.clone(), Some(Duration::ZERO.into()))?;
    let address = app
        .addresses()
        .listeners
        .first()
        .copied()
        .ok_or("the sidecar has no listener")?;
    std::thread::spawn(move || control.block_on(app.run_until(Shutdown::new())));
    child::report(address, Some(&token))
}

/// Where a sidecar stands.
pub(crate) struct Place<'a> {
    /// Its name in the trust domain.
    pub(crate) name: &'a str,
    /// Where its state goes.
    pub(crate) state: &'a Path,
    /// The service behind it.
    pub(crate) upstream: SocketAddr,
    /// The authority's port on this machine.
    pub(crate) authority: u16,
    /// What its authority signs with.
    pub(crate) publishing_keys: &'a Path,
}

/// As a sidecar is configured that says no more than it must.
pub(crate) fn configuration(pki: &Pki, place: &Place<'_>) -> Result<String, Failure> {
    let identity = SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/sidecar/{}", place.name))?;
    let certificate = pki.leaf(place.name, &identity, Usage::ServerAndClient, SystemClock.now())?;
    Ok(format!(
        r#"
issuer = "{ISSUER}"
trust_domain = "{TRUST_DOMAIN}"
audience = "{AUDIENCE}"
publishing_keys = "{publishing_keys}"
state_dir = "{state}"
upstream = "http://{upstream}"
admin = "127.0.0.1:0"
default_scopes = ["{SCOPE}"]

[authority]
uri = "https://localhost:{authority}"
spiffe_id = "spiffe://{TRUST_DOMAIN}/server"
certificate = "{certificate}"
private_key = "{key}"
trust_roots = "{roots}"

[[listener]]
address = "127.0.0.1:0"
plaintext = true
"#,
        publishing_keys = place.publishing_keys.display(),
        state = place.state.display(),
        upstream = place.upstream,
        authority = place.authority,
        certificate = certificate.certificate.display(),
        key = certificate.key.display(),
        roots = pki.trust_roots().display(),
    ))
}
