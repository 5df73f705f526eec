//! A client's certificate is in other hands: every token that is bound to it is taken back, and it gets no more. And a client's
//! certificate is replaced: tokens that are bound to its SPIFFE ID go on.

use std::path::{Path, PathBuf};

use countersign_cli::pki::{Pki, Usage, thumbprint};
use countersign_core::ports::Clock as _;
use countersign_core::spiffe::SpiffeId;
use countersign_harness::dev::{Dev, Through, told};
use countersign_harness::eventually;
use countersign_runtime::SystemClock;
use serde_json::{Value, json};
use tonic::Code;

use crate::start;

/// Whose tokens are bound to the certificate that `billing` connects with.
const REPORTS: &str = "reports";

async fn refusal(dev: &Dev, through: Through, token: &str) -> (Code, String) {
    told(dev.call(through, Some(token)).await.expect_err("refused"))
}

fn register_reports(dev: &Dev) {
    let certificate = dev.environment.clients.billing.cert.to_str().expect("text");
    let grant = ["--grant", "demo=demo.call", "--certificate", certificate];
    dev.text(&[&["client", "create", REPORTS][..], &grant].concat());
}

/// T85, I-08, I-09: from the answer to the operator on, calls with tokens that are bound to the certificate are refused over the
/// connection that proves it; a token that is bound to another certificate passes, and so does one that is bound to none. It
/// stays so when the sidecar starts anew while the authority is away.
#[tokio::test]
async fn tokens_bound_to_a_revoked_certificate_are_refused_and_those_of_another_pass() {
    let mut dev = start().await;
    // While the certificate that it connects with is nobody's yet.
    let unbound = dev.token(&["--client", "billing"]);
    register_reports(&dev);
    let bound = dev.token(&["--client", "orders"]);
    let other = dev.token(&["--client", REPORTS]);
    let (over_it, over_other) = (Through::Tls("orders"), Through::Tls("billing"));
    let mismatch = (Code::Unauthenticated, "CNF_MISMATCH".to_owned());
    assert_eq!(refusal(&dev, over_other, &bound).await, mismatch);
    assert_eq!(refusal(&dev, over_it, &other).await, mismatch);
    dev.call(over_it, Some(&bound)).await.expect("allowed");

    let certificate = dev.environment.clients.orders.cert.clone();
    let certificate = certificate.to_str().expect("text");
    let revoked = dev.json(&["revoke", "certificate", certificate]);
    assert_eq!(
        (&revoked["complete"], &revoked["in_force"]),
        (&json!(true), &json!(1)),
        "{revoked}"
    );
    let gone = (Code::Unauthenticated, "TOKEN_REVOKED".to_owned());
    assert_eq!(refusal(&dev, over_it, &bound).await, gone);
    let caller = dev.call(over_other, Some(&other)).await.expect("allowed");
    assert_eq!(caller.client_id, REPORTS);
    dev.call(over_it, Some(&unbound)).await.expect("allowed");
    let more = dev.failed(&["token", "get", "--client", "orders"]);
    assert_eq!((more.exit, more.reason.as_str()), (3, "invalid_client"));
    dev.token(&["--client", REPORTS]);

    dev.kill(dev.environment.processes.authority.pid).await;
    dev.kill(dev.environment.processes.sidecar.pid).await;
    let config = dev.environment.processes.sidecar.config.clone();
    dev.restart(&["run", "sidecar", "--config", config.to_str().expect("text")]);
    eventually("the other token passes", async || {
        dev.call(over_other, Some(&other)).await.is_ok()
    })
    .await;
    assert_eq!(refusal(&dev, over_it, &bound).await, gone);
    dev.stop().await;
}

/// A certificate and its key.
struct Leaf {
    certificate: PathBuf,
    key: PathBuf,
}

impl Leaf {
    /// Those of `orders`, which calls are made with.
    fn in_use(dev: &Dev) -> Self {
        let files = &dev.environment.clients.orders;
        Self {
            certificate: files.cert.clone(),
            key: files.key.clone(),
        }
    }

    fn copy_to(&self, other: &Self) {
        for (from, to) in [(&self.certificate, &other.certificate), (&self.key, &other.key)] {
            std::fs::copy(from, to).expect("copied");
        }
    }

    /// A copy beside the environment.
    fn kept(dev: &Dev, name: &str) -> Self {
        let kept = Self {
            certificate: dev.path(&format!("{name}.pem")),
            key: dev.path(&format!("{name}-key.pem")),
        };
        Self::in_use(dev).copy_to(&kept);
        kept
    }
}

/// Gives `orders` another certificate with the SPIFFE ID that it has, as an issuer of workload certificates does every hour.
fn renew(dev: &Dev) {
    let shown = dev.json(&["client", "show", "orders"]);
    let identity = shown.pointer("/spiffe_ids/0").and_then(Value::as_str);
    let identity = SpiffeId::parse(identity.expect("an identity")).expect("an identity");
    let former = Leaf::in_use(dev);
    let before = thumbprint(&former.certificate).expect("a certificate");
    std::fs::remove_file(&former.certificate).expect("removed");
    let folder = dev.environment.ca_cert.parent().map(Path::to_owned);
    let now = SystemClock.now();
    let pki = Pki::open(&folder.expect("a folder"), now).expect("a certificate authority");
    let leaf = pki.leaf("orders", &identity, Usage::Client, now).expect("a leaf");
    assert_eq!(leaf.certificate, former.certificate);
    assert_ne!(thumbprint(&leaf.certificate).expect("a certificate"), before);
}

/// T85, for a workload whose certificate is replaced every hour: the token that it has goes on, and is of no use to another workload,
/// nor to who has stolen its former certificate once that is revoked, not even the next token.
#[tokio::test]
async fn a_token_bound_to_a_spiffe_id_outlives_the_certificate_that_it_was_got_with() {
    let dev = start().await;
    let short_lived = dev.token(&["--client", "orders"]);
    let registered = dev.json(&["client", "update", "orders", "--token-binding", "spiffe-id"]);
    assert_eq!(registered["token_binding"], "spiffe_id");
    let token = dev.token(&["--client", "orders"]);
    let (over_it, over_other) = (Through::Tls("orders"), Through::Tls("billing"));
    dev.call(over_it, Some(&short_lived)).await.expect("allowed");
    dev.call(over_it, Some(&token)).await.expect("allowed");

    let former = Leaf::kept(&dev, "former");
    renew(&dev);
    let caller = dev.call(over_it, Some(&token)).await.expect("allowed");
    assert_eq!(caller.client_id, "orders");
    let mismatch = (Code::Unauthenticated, "CNF_MISMATCH".to_owned());
    assert_eq!(refusal(&dev, over_it, &short_lived).await, mismatch);
    for through in [over_other, Through::Plaintext] {
        assert_eq!(refusal(&dev, through, &token).await, mismatch);
    }

    let revoked = former.certificate.to_str().expect("text");
    let revoked = dev.json(&["revoke", "certificate", revoked]);
    assert_eq!(revoked["complete"], true, "{revoked}");
    let later = dev.token(&["--client", "orders"]);
    let renewed = Leaf::kept(&dev, "renewed");
    former.copy_to(&Leaf::in_use(&dev));
    let gone = (Code::Unauthenticated, "TOKEN_REVOKED".to_owned());
    for token in [&token, &later] {
        assert_eq!(refusal(&dev, over_it, token).await, gone);
    }
    renewed.copy_to(&Leaf::in_use(&dev));
    for token in [&token, &later] {
        dev.call(over_it, Some(token)).await.expect("allowed");
    }
    dev.stop().await;
}
