//! Exports the zone's records to a site's own DNS, by dynamic update (RFC 2136) signed with TSIG (RFC 8945): for
//! clients that cannot use another name server. Updates are only sent, never accepted.

mod tsig;
mod update;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Export;
use crate::limits::REGISTER_LEASE;
use crate::metrics::Metrics;
use crate::names::zone_name;
use crate::retry;
use crate::zone::Zone;
use tsig::{Key, TsigError};
use update::Sets;

/// All records are written again this often, in case another writer has changed them.
const INTERVAL: Duration = Duration::from_secs(60);
/// Shortest time between two updates: the site's server writes each one to its disk.
const INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Timeout of one message, from connecting to the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an update failed.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("no answer within {TIMEOUT:?}")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the update cannot be encoded: {0}")]
    Encode(#[from] ProtoError),
    #[error(transparent)]
    Tsig(#[from] TsigError),
    #[error("the primary name server answered {}{}", .0, advice(.0))]
    Refused(ResponseCode),
    #[error("the answer is to another message")]
    OtherMessage,
}

fn advice(code: &ResponseCode) -> &'static str {
    match *code {
        ResponseCode::NotAuth | ResponseCode::NotZone => ": is it the primary of the zone?",
        ResponseCode::Refused => ": allow the key to update the zone there",
        _ => "",
    }
}

/// Keeps the site's zone equal to ours, until the name server stops.
pub(crate) async fn run(
    export: Export,
    mut zones: watch::Receiver<Option<Arc<Zone>>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    // Validation of the configuration has checked all three.
    let (Ok(target), Ok(key_name), Some(secret)) =
        (zone_name(&export.zone), zone_name(&export.key_name), export.key_bytes())
    else {
        return;
    };
    let exporter = Exporter { server: export.server, target, key: Key::new(key_name, secret), metrics };
    stop.run_until_cancelled(exporter.run(&mut zones)).await;
}

#[derive(Debug)]
struct Exporter {
    server: SocketAddr,
    target: Name,
    key: Key,
    metrics: Arc<Metrics>,
}

impl Exporter {
    async fn run(&self, zones: &mut watch::Receiver<Option<Arc<Zone>>>) {
        // A name server that has just started does not know all nodes yet: the records that the site has are better.
        if zones.wait_for(Option::is_some).await.is_err() {
            return;
        }
        sleep(REGISTER_LEASE).await;
        // The record sets of the last update: a set that vanished since is deleted once.
        let mut written = Sets::new();
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let zone = zones.borrow_and_update().clone();
            // A name server that is cut off does not export: others know better.
            if let Some(zone) = zone.filter(|zone| !zone.stale()) {
                let new = update::sets(&zone, &self.target);
                let mut sets = new.clone();
                for (set, _) in written {
                    sets.entry(set).or_default();
                }
                match self.write(&sets).await {
                    Ok(()) => {
                        if failures > 0 {
                            tracing::info!(server = %self.server, zone = %self.target, "export recovered");
                        }
                        written = new;
                        failures = 0;
                        self.metrics.export_serial.set(zone.serial().into());
                        self.metrics.exports.with_label_values(&["written"]).inc();
                    }
                    Err(error) => {
                        // A part of the update may have been applied.
                        written = sets;
                        failures += 1;
                        self.metrics.exports.with_label_values(&["failed"]).inc();
                        if failures == 1 {
                            tracing::warn!(server = %self.server, zone = %self.target, %error, "export failed");
                        }
                    }
                }
            }
            if failures > 0 {
                sleep(retry::delay(failures)).await;
            } else if let Ok(Err(_)) = timeout(INTERVAL, zones.changed()).await {
                return;
            }
            sleep(INTERVAL_MIN.saturating_sub(begun.elapsed())).await;
        }
    }

    async fn write(&self, sets: &Sets) -> Result<(), UpdateError> {
        for message in update::messages(&self.target, sets)? {
            timeout(TIMEOUT, self.send(message)).await??;
        }
        Ok(())
    }

    /// Sends one update over TCP, since it does not fit into a datagram.
    async fn send(&self, message: Message) -> Result<(), UpdateError> {
        let id = message.metadata.id;
        let (bytes, mac) = self.key.sign(message, unix_seconds())?;
        let length = u16::try_from(bytes.len()).map_err(|_| ProtoError::from("longer than 64 KiB"))?;
        let mut stream = TcpStream::connect(self.server).await?;
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        let answer = self.key.verify(&answer, &mac, unix_seconds())?;
        match answer.metadata.response_code {
            _ if answer.metadata.id != id => Err(UpdateError::OtherMessage),
            ResponseCode::NoError => Ok(()),
            code => Err(UpdateError::Refused(code)),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "signatures carry the wall time; what decides gets it as a parameter"
)]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
