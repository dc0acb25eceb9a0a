//! Exports to a site's primary name server, which computes every TSIG signature by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use conclave_dns::DnsServer;
use conclave_dns::config::{Config, Export};
use conclave_proto::mac::Secret;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::nodes::{RegisteredNode, RegistrationStream, config, record, secret, start, until, within};
use crate::support::{read_framed, write_framed};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const KEY_BASE64: &[u8] = b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// The key's name, as it stands in a message.
const KEY_NAME: &[u8] = b"\x0aexport-key\x00";
const ALGORITHM: &[u8] = b"\x0bhmac-sha256\x00";
/// A signature: name, type, class, time to live, length, and what RFC 8945 4.2 lists.
const SIGNATURE_BYTES: usize = 12 + 10 + 13 + 6 + 2 + 2 + 32 + 2 + 2 + 2;

/// The primary's records by name and type.
type Records = BTreeMap<(String, RecordType), BTreeSet<String>>;

/// The primary's reaction to an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    Takes,
    /// Refuses, with a valid signature.
    Refuses,
    /// Accepts, with a forged signature.
    Forged,
    /// Never answers.
    Hangs,
}

#[derive(Debug)]
struct Primary {
    address: std::net::SocketAddr,
    records: Arc<Mutex<Records>>,
    hangs: CancellationToken,
    /// The other side has closed the connection of the update that hangs.
    hung_up: CancellationToken,
    task: JoinHandle<()>,
}

impl Primary {
    /// Each update gets the next reaction; the last one repeats.
    async fn start(mut reactions: Vec<Reaction>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let records = Arc::new(Mutex::new(Records::new()));
        let (shared, hangs, hung_up) =
            (Arc::clone(&records), CancellationToken::new(), CancellationToken::new());
        let (hanging, hanging_up) = (hangs.clone(), hung_up.clone());
        reactions.reverse();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let update = read_framed(&mut stream).await.unwrap();
                let mac = verify(&update);
                let reaction = if reactions.len() > 1 { reactions.pop().unwrap() } else { reactions[0] };
                let mut answer = Message::from_vec(&update).unwrap();
                let updates = std::mem::take(&mut answer.authorities);
                answer.additionals.clear();
                let mut answer = answer.into_response();
                match reaction {
                    Reaction::Takes => apply(&mut shared.lock().unwrap(), &updates),
                    Reaction::Refuses => answer.metadata.response_code = ResponseCode::Refused,
                    Reaction::Forged => {}
                    Reaction::Hangs => {
                        hanging.cancel();
                        // Only a closed connection ends this.
                        let _ = stream.read(&mut [0]).await;
                        hanging_up.cancel();
                        continue;
                    }
                }
                let mut answer = answer.to_vec().unwrap();
                sign(&mut answer, &mac, if reaction == Reaction::Forged { b"guessed" } else { KEY });
                write_framed(&mut stream, &answer).await;
            }
        });
        Self { address, records, hangs, hung_up, task }
    }

    fn get(&self, name: &str, kind: RecordType) -> Vec<String> {
        let records = self.records.lock().unwrap();
        records.get(&(name.to_owned(), kind)).into_iter().flatten().cloned().collect()
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks the MAC of an update, and returns it.
fn verify(update: &[u8]) -> [u8; 32] {
    let (message, signature) = update.split_at(update.len() - SIGNATURE_BYTES);
    assert!(
        signature.starts_with(&[KEY_NAME, b"\0\xfa\0\xff\0\0\0\0\0\x3d", ALGORITHM].concat()),
        "{signature:?}"
    );
    let fields = &signature[12 + 10 + 13..];
    let (time_and_fudge, mac) = (&fields[..8], &fields[10..42]);
    assert_eq!(fields[42..], [&update[..2], &[0; 4]].concat(), "the id, no error, nothing else");
    let mut message = message.to_vec();
    assert_eq!(message[10..12], [0, 1], "only the signature is additional");
    message[11] = 0;
    let mut expected = Hmac::<Sha256>::new_from_slice(KEY).unwrap();
    for part in [&message, KEY_NAME, b"\0\xff\0\0\0\0", ALGORITHM, time_and_fudge, &[0; 4]] {
        expected.update(part);
    }
    expected.verify_slice(mac).expect("the signature is valid");
    mac.try_into().unwrap()
}

fn sign(answer: &mut Vec<u8>, request_mac: &[u8], key: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "a signature carries the wall time")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let time_and_fudge = [&now.to_be_bytes()[2..], &300_u16.to_be_bytes()].concat();
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in
        [&[0, 32], request_mac, answer, KEY_NAME, b"\0\xff\0\0\0\0", ALGORITHM, &time_and_fudge, &[0; 4]]
    {
        mac.update(part);
    }
    let mac = mac.finalize().into_bytes();
    let id = [answer[0], answer[1]];
    for part in
        [KEY_NAME, b"\0\xfa\0\xff\0\0\0\0\0\x3d", ALGORITHM, &time_and_fudge, &[0, 32], &mac, &id, &[0; 4]]
    {
        answer.extend_from_slice(part);
    }
    answer[11] = 1;
}

/// Applies an update (RFC 2136 3.4.2), as far as the exporter uses it.
fn apply(records: &mut Records, updates: &[hickory_proto::rr::Record]) {
    for update in updates {
        let key = (update.name.to_ascii(), update.record_type());
        match (&update.data, update.dns_class) {
            (RData::Update0(_), DNSClass::ANY) => drop(records.remove(&key)),
            (data, DNSClass::IN) => drop(records.entry(key).or_default().insert(data.to_string())),
            other => panic!("{other:?}"),
        }
    }
}

fn exporting(primary: &Primary, zone: &str) -> Config {
    let mut config = config();
    config.export = Some(Export {
        server: primary.address,
        zone: zone.to_owned(),
        key_name: "export-key".to_owned(),
        key: Secret::new(KEY_BASE64).unwrap(),
    });
    config
}

fn count(server: &DnsServer, line: &str) -> bool {
    server.metrics().render().contains(line)
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_and_address_records_are_written_below_the_sites_zone_and_deleted_when_they_vanish() {
    let primary = Primary::start(vec![Reaction::Takes]).await;
    let server = start(exporting(&primary, "example.org")).await;
    let _n2 = RegisteredNode::start(&server, record(2, 10)).await;
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    let leader = async || primary.get("_conclave._tcp.leader.example.org.", RecordType::SRV);
    until("the leader", async || leader().await.len() == 1).await;
    assert_eq!(leader().await, ["10 50 7400 n1.node.example.org."]);
    assert_eq!(primary.get("_conclave._tcp.example.org.", RecordType::SRV).len(), 2);
    assert_eq!(primary.get("n1.node.example.org.", RecordType::A), ["10.0.0.1"]);
    assert_eq!(primary.get("n1.node.example.org.", RecordType::AAAA), ["fd00::1"]);
    let records = primary.records.lock().unwrap().clone();
    let kinds: BTreeSet<_> = records.keys().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds, [RecordType::A, RecordType::AAAA, RecordType::SRV].into());
    assert!(
        !records.keys().any(|(name, _)| name.starts_with("ns1")),
        "name servers are not exported: {records:?}"
    );

    let mut led = record(1, 11);
    led.leads.clear();
    RegistrationStream::connect(&server, secret()).await.register(&led).await.unwrap();
    until("no leader", async || leader().await.is_empty()).await;
    assert_eq!(primary.get("_conclave._tcp.example.org.", RecordType::SRV).len(), 2);
    assert!(!count(&server, "conclave_dns_exports_total{outcome=\"failed\"}"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_below_the_sites_zone_keeps_its_names() {
    let primary = Primary::start(vec![Reaction::Takes]).await;
    let server = start(exporting(&primary, "internal")).await;
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    let servers = async || primary.get("_conclave._tcp.conclave.internal.", RecordType::SRV);
    until("the servers", async || servers().await == ["10 50 7400 n1.node.conclave.internal."]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_export_is_retried_and_a_forged_success_counts_as_a_failure() {
    let reactions = vec![Reaction::Refuses, Reaction::Forged, Reaction::Takes];
    let primary = Primary::start(reactions).await;
    let server = start(exporting(&primary, "example.org")).await;
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    until("the servers", async || !primary.get("_conclave._tcp.example.org.", RecordType::SRV).is_empty())
        .await;
    until("success", async || count(&server, "conclave_dns_exports_total{outcome=\"written\"} 1")).await;
    assert!(count(&server, "conclave_dns_exports_total{outcome=\"failed\"} 2"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_primary_that_hangs() {
    // On a busy machine the update's own time may be over before the stop: it is given up, and the next run looks again.
    until("a stop during an update", async || {
        let primary = Primary::start(vec![Reaction::Hangs]).await;
        let server = start(exporting(&primary, "example.org")).await;
        let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
        within("an update", primary.hangs.cancelled()).await;
        let metrics = Arc::clone(server.metrics());
        server.stop().await;
        within("the end of the update", primary.hung_up.cancelled()).await;
        // The stop ended the update, which otherwise would have failed when its time was over.
        !metrics.render().contains("conclave_dns_exports_total{outcome=\"failed\"} 1")
    })
    .await;
}
