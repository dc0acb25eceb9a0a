//! Serves a zone of invented nodes, for measurements and for trying clients by hand:
//!
//! ```text
//! cargo run --release -p conclave-dns --example made_up_zone -- 127.0.0.1:5300 20 [zones a second]
//! ```
//!
//! It runs until its standard input ends. The third number replaces the zone that often, to measure the effect.

#![expect(clippy::print_stdout, reason = "the program prints its address")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use conclave_dns::handler::{CurrentZone, Handler, HandlerConfig, Sockets, host_name};
use conclave_dns::metrics::Metrics;
use conclave_dns::names::{NameServer, zone_name};
use conclave_dns::zone::{NodeView, Zone, ZoneInput};
use conclave_proto::cluster::{MemberRole, NodeRecord, ShardLead};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

const ZONE: &str = "conclave.internal";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or("127.0.0.1:5300".to_owned()).parse()?;
    let nodes = arguments.next().map_or(Ok(3), |nodes| nodes.parse())?;
    let swaps: u32 = arguments.next().map_or(Ok(0), |swaps| swaps.parse())?;

    let zone = CurrentZone::default();
    zone.store(Some(Arc::new(made_up(nodes, 1)?)));
    let handler = Handler::new(HandlerConfig {
        name: zone_name(ZONE)?,
        zone: zone.clone(),
        identity: host_name(),
        transfer_to: vec!["127.0.0.0/8".parse()?],
        forwarder: None,
        metrics: Arc::new(Metrics::new(ZONE)),
        faults: None,
    });
    let sockets = Sockets::bind(&[listen]).await.map_err(|(address, error)| format!("{address}: {error}"))?;
    println!("{}", sockets.addresses()[0]);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(sockets.serve(Arc::new(handler), stop.clone()));
    let swapping = async {
        if swaps == 0 {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / swaps);
        for serial in 2.. {
            ticks.tick().await;
            zone.store(Some(Arc::new(made_up(nodes, serial)?)));
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let mut stdin = tokio::io::stdin();
    let mut rest = Vec::new();
    tokio::select! {
        ended = stdin.read_to_end(&mut rest) => { ended?; }
        failed = swapping => failed?,
    }
    stop.cancel();
    serving.await?;
    Ok(())
}

fn made_up(nodes: u64, serial: u32) -> Result<Zone, Box<dyn Error>> {
    let node = |id: u64| {
        let ip = format!("10.0.{}.{}", id / 250, id % 250 + 1);
        NodeView {
            record: NodeRecord {
                node_id: id,
                name: format!("n{id}"),
                cluster_id: "00112233445566778899aabbccddeeff".to_owned(),
                client: format!("{ip}:7400"),
                peer: format!("{ip}:7401"),
                http: format!("{ip}:7480"),
                ips: vec![ip],
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: id,
                ready: true,
                draining: false,
                full: false,
                role: if id <= 7 { MemberRole::Voter.into() } else { MemberRole::Learner.into() },
                weight: 50,
                leads: if id == 1 { vec![ShardLead { shard: 0, term: 1 }] } else { Vec::new() },
                votes_in: if id <= 7 { (0..=4).collect() } else { Vec::new() },
            },
            live: true,
        }
    };
    Ok(Zone::build(&ZoneInput {
        zone: zone_name(ZONE)?,
        name_servers: vec![NameServer { name: "ns1".to_owned(), ips: vec![[127, 0, 0, 1].into()] }],
        nodes: (1..=nodes).map(node).collect(),
        stale: false,
        serial,
    }))
}
