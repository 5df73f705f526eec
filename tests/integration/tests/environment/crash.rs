//! An acknowledged mutation survives every crash of the authority (I-13): its process is killed at random moments while
//! an operator works.
#![expect(clippy::print_stdout, reason = "the counts are part of the report")]

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::ports::Entropy as _;
use countersign_crypto::AwsLc;
use countersign_harness::dev::Dev;
use countersign_harness::eventually;
use countersign_proto::admin::v1::client_service_client::ClientServiceClient;
use countersign_proto::admin::v1::revocation_record::Subject;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::revoke_request;
use countersign_proto::admin::v1::{
    CreateClientRequest, DisableClientRequest, Grant, ListClientsRequest, ListRevocationsRequest,
    RevokeRequest,
};
use tonic::transport::Channel;

use crate::start;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(5);

/// Mutations to be acknowledged, of three kinds in turn.
const MUTATIONS: usize = 200;

/// Mutations between two kills: drawn anew each time, up to this.
const LONGEST_RUN: u8 = 16;

/// About forty are needed. Each costs a restart, and an authority that acknowledges nothing must not be killed for ever.
const MOST_KILLS: usize = 400;

fn random(below: u8) -> u8 {
    let mut byte = [0];
    AwsLc.fill(&mut byte).expect("randomness");
    byte[0] % below
}

/// What the authority acknowledged.
#[derive(Default)]
struct Acknowledged {
    clients: BTreeSet<String>,
    disabled: BTreeSet<String>,
    revoked: BTreeSet<String>,
}

impl Acknowledged {
    fn count(&self) -> usize {
        self.clients.len() + self.disabled.len() + self.revoked.len()
    }
}

fn grant() -> Grant {
    Grant {
        audience: "demo".to_owned(),
        scopes: vec!["demo.call".to_owned()],
        default_scopes: Vec::new(),
    }
}

/// Makes mutation `number`; notes it if it was acknowledged. In doubt, it counts as not made.
async fn mutate(number: usize, operator: &Channel, acknowledged: &mut Acknowledged) {
    let id = format!("client-{}", number / 3);
    match number % 3 {
        0 => {
            let request = CreateClientRequest {
                client_id: id.clone(),
                grants: vec![grant()],
                ..Default::default()
            };
            let mut clients = ClientServiceClient::new(operator.clone());
            if let Ok(Ok(_)) = tokio::time::timeout(CALL, clients.create_client(request)).await {
                acknowledged.clients.insert(id);
            }
        }
        1 => {
            let token_id = format!("ff.{number:x}");
            let subject = Some(revoke_request::Subject::TokenId(token_id.clone()));
            let request = RevokeRequest {
                subject,
                reason: "drill".to_owned(),
            };
            let mut revocations = RevocationServiceClient::new(operator.clone());
            if let Ok(Ok(_)) = tokio::time::timeout(CALL, revocations.revoke(request)).await {
                acknowledged.revoked.insert(token_id);
            }
        }
        _ => {
            let request = DisableClientRequest {
                client_id: id.clone(),
            };
            let mut clients = ClientServiceClient::new(operator.clone());
            if let Ok(Ok(_)) = tokio::time::timeout(CALL, clients.disable_client(request)).await {
                acknowledged.disabled.insert(id);
            }
        }
    }
}

async fn wait_until_it_answers(dev: &Dev) {
    eventually("the authority answers again", async || {
        let mut clients = ClientServiceClient::new(dev.operator());
        clients.list_clients(ListClientsRequest::default()).await.is_ok()
    })
    .await;
}

/// Every client, with whether it is disabled, and every revoked token.
async fn read_back(dev: &Dev) -> (BTreeSet<String>, BTreeSet<String>, BTreeSet<String>) {
    let mut clients = ClientServiceClient::new(dev.operator());
    let page = ListClientsRequest {
        page_size: 1000,
        page_token: String::new(),
    };
    let page = clients
        .list_clients(page)
        .await
        .expect("the authority answers")
        .into_inner();
    assert_eq!(page.next_page_token, "", "one page is enough");
    let disabled = page.clients.iter().filter(|client| client.disabled);
    let disabled = disabled.map(|client| client.client_id.clone()).collect();
    let all = page
        .clients
        .iter()
        .map(|client| client.client_id.clone())
        .collect();

    let mut revocations = RevocationServiceClient::new(dev.operator());
    let page = ListRevocationsRequest {
        page_size: 1000,
        page_token: String::new(),
    };
    let page = revocations
        .list_revocations(page)
        .await
        .expect("the authority answers")
        .into_inner();
    assert_eq!(page.next_page_token, "", "one page is enough");
    let revoked = page
        .revocations
        .into_iter()
        .filter_map(|record| match record.subject {
            Some(Subject::TokenId(token_id)) => Some(token_id),
            Some(_) | None => None,
        });
    (all, disabled, revoked.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_mutation_survives_sigkill() {
    let mut dev = start().await;
    let mut acknowledged = Acknowledged::default();
    let (mut made, mut kills) = (0, 0);
    while acknowledged.count() < MUTATIONS {
        assert!(kills < MOST_KILLS, "{} acknowledged", acknowledged.count());
        let operator = dev.operator();
        let run = usize::from(random(LONGEST_RUN)) + 1;
        let end = made + run;
        {
            let mutations = async {
                for number in made..end {
                    mutate(number, &operator, &mut acknowledged).await;
                }
            };
            // The kill comes at some moment of the last mutations, or after them, never waiting for an answer.
            let moment =
                Duration::from_micros(u64::from(random(u8::MAX)) * 40 * u64::try_from(run).expect("small"));
            tokio::select! {
                () = mutations => {}
                () = tokio::time::sleep(moment) => {}
            }
        }
        dev.restart_authority();
        kills += 1;
        made = end;
        wait_until_it_answers(&dev).await;
    }
    println!(
        "{} of {made} mutations acknowledged over {kills} kills",
        acknowledged.count()
    );

    let (clients, disabled, revoked) = read_back(&dev).await;
    let lost = |acknowledged: &BTreeSet<String>, found: &BTreeSet<String>| -> Vec<String> {
        acknowledged.difference(found).cloned().collect()
    };
    assert_eq!(lost(&acknowledged.clients, &clients), [""; 0], "clients lost");
    assert_eq!(
        lost(&acknowledged.disabled, &disabled),
        [""; 0],
        "disabled clients that are enabled again"
    );
    assert_eq!(lost(&acknowledged.revoked, &revoked), [""; 0], "revocations lost");
}
