//! The configuration files of an environment: as an operator would write them, with comments, for people read them too.

use std::fmt::Display;
use std::path::Path;

use countersign_core::ports::{Entropy as _, EntropyFailed};
use countersign_crypto::AwsLc;
use zeroize::Zeroizing;

use super::layout::{
    AUDIENCE, AUTHORITY_ID, ISSUER, Layout, OPERATOR_ID, SCOPE, SIDECAR_ID, TRUST_DOMAIN, identity,
};
use crate::demo;
use crate::failure::Failure;
use crate::files::{self, Audience};
use crate::present;

/// Writes both files anew. The key that seals the authority's store is made once and kept.
///
/// # Errors
/// When they cannot be written.
pub(super) fn write(layout: &Layout) -> Result<(), Failure> {
    if !layout.sealing_key.exists() {
        let key = sealing_key().map_err(|error| Failure::because("cannot make a key", &error))?;
        files::write(&layout.sealing_key, key.as_bytes(), Audience::Owner)?;
    }
    let store = |path: &Path, text: String| files::write(path, text.as_bytes(), Audience::Everybody);
    store(&layout.authority_config, authority(layout)?)?;
    store(&layout.sidecar_config, sidecar(layout)?)
}

/// 32 random bytes in hexadecimal.
fn sealing_key() -> Result<Zeroizing<String>, EntropyFailed> {
    let mut key = Zeroizing::new([0_u8; 32]);
    AwsLc.fill(key.as_mut_slice())?;
    Ok(Zeroizing::new(present::hex(key.as_slice())))
}

/// A value as TOML writes it.
fn quoted(value: impl Display) -> toml::Value {
    toml::Value::String(value.to_string())
}

fn path(path: &Path) -> toml::Value {
    quoted(path.display())
}

fn authority(layout: &Layout) -> Result<String, Failure> {
    let ports = layout.ports;
    Ok(format!(
        r#"# The authority of a development environment. Written by `countersign dev` at each start.
issuer = {issuer}
trust_domain = {trust_domain}
listen = {listen}
admin = {admin}
# So that grpcurl can look around.
reflection = true

[tls]
certificate = {certificate}
private_key = {private_key}
trust_roots = {trust_roots}

[store]
path = {store}

[keys]
key_encryption_key = {key}

[access]
operators = [{operator}]
verifiers = [{verifier}]

# So that load can be tried, too; and more verifiers than the sidecar here, under its identity.
[limits]
tokens_per_second = 100000
tokens_burst = 100000
streams_per_verifier = 100
"#,
        issuer = quoted(ISSUER),
        trust_domain = quoted(TRUST_DOMAIN),
        listen = quoted(ports.authority()),
        admin = quoted(ports.authority_metrics()),
        certificate = path(&layout.authority.certificate),
        private_key = path(&layout.authority.key),
        trust_roots = path(&layout.trust_roots),
        store = path(&layout.authority_store),
        key = path(&layout.sealing_key),
        operator = quoted(identity(OPERATOR_ID)?),
        verifier = quoted(identity(SIDECAR_ID)?),
    ))
}

fn sidecar(layout: &Layout) -> Result<String, Failure> {
    let ports = layout.ports;
    let tls = format!(
        "{{ certificate = {}, private_key = {}, trust_roots = {} }}",
        path(&layout.sidecar.certificate),
        path(&layout.sidecar.key),
        path(&layout.trust_roots)
    );
    Ok(format!(
        r#"# The sidecar of a development environment. Written by `countersign dev` at each start.
issuer = {issuer}
trust_domain = {trust_domain}
audience = {audience}
publishing_keys = {publishing_keys}
state_dir = {state_dir}
upstream = {upstream}
admin = {admin}
# So that grpcurl can look around without a token.
open_health = true
open_reflection = true

[authority]
uri = {authority}
spiffe_id = {authority_id}
certificate = {certificate}
private_key = {private_key}
trust_roots = {trust_roots}

# As in production: callers show a certificate.
[[listener]]
address = {proxy}
tls = {tls}

# For quick tries with tokens that are bound to no certificate.
[[listener]]
address = {proxy_plaintext}
plaintext = true
# Everybody here may know why a call is refused.
disclose_reasons = true

[[method]]
path = {methods}
scopes = [{scope}]

[verify]
unix = {verify_socket}
grpc = {verify}
"#,
        issuer = quoted(ISSUER),
        trust_domain = quoted(TRUST_DOMAIN),
        audience = quoted(AUDIENCE),
        publishing_keys = path(&layout.publishing_keys),
        state_dir = path(&layout.sidecar_state),
        upstream = quoted(format_args!("http://{}", ports.demo())),
        admin = quoted(ports.admin()),
        authority = quoted(format_args!("https://{}", ports.authority())),
        authority_id = quoted(identity(AUTHORITY_ID)?),
        certificate = path(&layout.sidecar.certificate),
        private_key = path(&layout.sidecar.key),
        trust_roots = path(&layout.trust_roots),
        proxy = quoted(ports.proxy()),
        proxy_plaintext = quoted(ports.proxy_plaintext()),
        methods = quoted(format_args!("/{}/*", demo::SERVICE)),
        scope = quoted(SCOPE),
        verify_socket = path(&layout.verify_socket),
        verify = quoted(ports.verify()),
    ))
}

#[cfg(test)]
mod tests {
    use countersign_authority::config::Config;
    use countersign_core::ports::Clock as _;
    use countersign_runtime::SystemClock;

    use super::*;
    use crate::dev::ports::{PortArgs, Ports};
    use crate::output::{ColourChoice, Output};

    /// There is one identity for verifiers here: a service that embeds one, and a second sidecar, have to fit beside the first.
    #[tokio::test]
    async fn there_is_room_for_more_verifiers() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Output::new(true, ColourChoice::Never);
        let ports = Ports::choose(&PortArgs::default(), None, output).await;
        let layout = Layout::make(folder.path(), &ports.expect("ports"), SystemClock.now()).expect("made");
        write(&layout).expect("written");
        let config = Config::load(&layout.authority_config).expect("a good configuration");
        assert_eq!(config.limits.streams_per_verifier, 100);
    }
}
