//! A controller beyond loopback: over TLS, or not at all.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

use conclave_chaos::serve::PORT;
use conclave_chaos::serve::timetable::Schedule;
use conclave_net::{Expect, Identity, Net, TlsClient, Trust};
use conclave_pki::{Ca, Subject};
use conclave_telemetry::door::{Door, DoorError, Listening};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::TOKEN;
use crate::calls::{DEADLINE, Serving};
use crate::cluster::empty;

#[expect(clippy::disallowed_methods, reason = "verifiers compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn issue(ca: &Ca, dir: &Path, identity: Identity) {
    ca.issue(&Subject { identity, hosts: Vec::new() }, now()).unwrap().write(dir).unwrap();
}

fn everywhere(tls_dir: Option<&Path>, insecure: bool) -> Listening {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    Listening { purpose: PORT, address, tls_dir: tls_dir.map(Path::to_owned), insecure }
}

/// The answer to a request to heal all faults.
async fn heal(net: &Net, port: u16, path: &str) -> io::Result<String> {
    let exchange = async {
        let mut wire = net.connect(&format!("127.0.0.1:{port}")).await?;
        let request = format!("DELETE {path} HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
        wire.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        wire.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(DEADLINE, exchange).await.expect("an answer")
}

#[tokio::test]
async fn beyond_loopback_the_api_has_tls_with_the_certificate_of_a_controller() {
    let (ca, dir) = (Ca::create(now()).unwrap(), tempfile::tempdir().unwrap());
    let tls = dir.path().join("tls");
    issue(&ca, &tls, Identity::Chaos);
    let door = Door::open(&everywhere(Some(&tls), false)).await.unwrap();
    assert!(door.url().starts_with("https://0.0.0.0:"), "{}", door.url());
    let port = door.address().port();
    let (stop, task) = Serving::open(empty(), dir.path(), Some(TOKEN), Schedule::default(), door).await;

    let to =
        |ca: &Ca, expect| Net::System.secured(TlsClient::new(Trust::Cluster(ca.id(), expect), None).unwrap());
    let answer = heal(&to(&ca, Expect::Chaos), port, "/v1/faults").await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // Nothing is answered to a reader without TLS, and the certificate is no server's.
    assert!(!heal(&Net::System, port, "/v1/faults").await.unwrap_or_default().contains("HTTP"));
    let refused = heal(&to(&ca, Expect::AnyServer), port, "/livez").await.unwrap_err();
    assert!(refused.to_string().contains("the peer is a chaos controller"), "{refused}");
    let other = Ca::create(now()).unwrap();
    assert!(heal(&to(&other, Expect::Chaos), port, "/livez").await.is_err());
    stop.cancel();
    tokio::time::timeout(DEADLINE, task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn beyond_loopback_nothing_is_served_without_tls_unless_the_user_says_so() {
    let refused = Door::open(&everywhere(None, false)).await.unwrap_err();
    assert!(matches!(refused, DoorError::WithoutTls(_)), "{refused}");
    let refused = refused.to_string();
    for part in ["this port at 0.0.0.0:0", "--pages-tls-dir", "--listen-insecure"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(Door::open(&everywhere(None, true)).await.unwrap().url().starts_with("http://"));

    // The certificate of somebody else, and none.
    let (ca, dir) = (Ca::create(now()).unwrap(), tempfile::tempdir().unwrap());
    issue(&ca, dir.path(), Identity::Node(1));
    let refused = Door::open(&everywhere(Some(dir.path()), true)).await.unwrap_err();
    assert!(refused.to_string().contains("that of node 1, and this is a chaos controller"), "{refused}");
    let refused = Door::open(&everywhere(Some(Path::new("/nowhere")), true)).await.unwrap_err();
    assert!(
        matches!(refused, DoorError::Tls { .. }) && refused.to_string().contains("/nowhere"),
        "{refused}"
    );

    // On loopback a certificate is not looked at, as with the pages of servers.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let here = Listening { purpose: PORT, address, tls_dir: Some("/nowhere".into()), insecure: false };
    assert!(Door::open(&here).await.unwrap().url().starts_with("http://127.0.0.1:"));
}
