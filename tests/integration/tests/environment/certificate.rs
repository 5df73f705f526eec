//! A client's certificate is in other hands: every token that is bound to it is taken back, and it gets no more.

use countersign_harness::dev::{Dev, Through, told};
use countersign_harness::eventually;
use serde_json::json;
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
