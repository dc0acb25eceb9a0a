//! `conclave use`: lists the clusters of this user, and chooses the one that commands go to.

use conclave_client::find::Seed;
use serde::Serialize;

use crate::args::UseArgs;
use crate::errors::no_server;
use crate::exit::{Exit, Failed};
use crate::identify::{Identified, cannot_use, identify};
use crate::known::{Cluster, Known, short};
use crate::output;
use crate::parse;
use crate::settings::{Settings, context};
use crate::view::table::{Align, Cell, render};
use crate::view::text::safe;

#[derive(Debug, Serialize)]
struct Json<'a> {
    cluster: &'a str,
    id: &'a str,
    current: bool,
    /// The servers to search, as they were given; empty for all that can be found.
    asked: &'a str,
    servers: &'a [String],
}

/// Lists the clusters, or chooses one.
///
/// # Errors
/// If the chosen cluster is not known and none of its servers answers, or the state directory cannot be written.
pub(super) async fn run(args: &UseArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let known = Known::new(&settings.state_dir);
    let Some(wanted) = &args.cluster else { return list(&known, settings) };
    let chosen = match context(&known, wanted) {
        Ok(cluster) => cluster,
        Err(failed) => match seeds(wanted) {
            Some(seeds) => met(seeds, &known, settings).await?,
            None => found(wanted, &known, settings).await?.ok_or(failed)?,
        },
    };
    let named = match &args.name {
        Some(name) => Cluster { alias: name.clone(), ..chosen },
        None => chosen,
    };
    let write = || known.keep(&named).and_then(|()| known.set_current(&named.id));
    write().map_err(|error| cannot_use(&settings.state_dir, &error))?;
    show(settings, &[&named], Some(&named.id))?;
    if settings.given {
        let note = "servers that are given (--server, CONCLAVE_SERVERS …) go before the current cluster";
        output::note(settings.quiet, note);
    }
    Ok(Exit::Ok)
}

/// The servers that are meant, unless it is a name.
fn seeds(text: &str) -> Option<Vec<Seed>> {
    let is_address = text.contains([':', '/', ',', '.']) && !text.ends_with('.');
    parse::seeds(text).ok().map(|seeds| seeds.0).filter(|_| is_address)
}

/// The cluster of these servers, which need not be known before.
async fn met(seeds: Vec<Seed>, known: &Known, settings: &Settings) -> anyhow::Result<Cluster> {
    let there = settings.anew(seeds)?;
    let met = identify(&there).await?;
    met.must_answer()?;
    let (Some(id), Some(_)) = (&met.id, &met.answered) else { return Err(no_server(&met.last).into()) };
    let mut cluster = known.cluster(id);
    cluster.asked = there.asked();
    if settings.given && settings.asked() != there.asked() && shares_server(settings, &there) {
        // The environment names this server, too, and means the same cluster from now on.
        known.record(&settings.asked(), id).map_err(|error| cannot_use(&settings.state_dir, &error))?;
    }
    Ok(cluster)
}

fn shares_server(one: &Settings, other: &Settings) -> bool {
    one.find.seeds.iter().any(|seed| other.find.seeds.contains(seed))
}

/// A cluster of this name among those that can be found now.
async fn found(wanted: &str, known: &Known, settings: &Settings) -> anyhow::Result<Option<Cluster>> {
    let Identified { others, .. } = identify(settings).await?;
    let is_meant = |id: &str, name: &str| {
        Cluster { id: id.to_owned(), name: name.to_owned(), ..Cluster::default() }.is_meant(wanted)
    };
    match others.iter().find(|other| is_meant(&other.id, &other.name)) {
        Some(other) => Ok(Some(met(vec![Seed::Node(other.address.clone())], known, settings).await?)),
        None => Ok(None),
    }
}

fn list(known: &Known, settings: &Settings) -> anyhow::Result<Exit> {
    let clusters = known.clusters();
    let current = known.current().map(|cluster| cluster.id);
    if clusters.is_empty() && !settings.json {
        let next = "start one with `conclave up`, or give one of its servers: conclave use HOST:PORT";
        return Err(Failed::new(Exit::NotFound, "no cluster is known here", next).into());
    }
    show(settings, &clusters.iter().collect::<Vec<_>>(), current.as_deref())?;
    Ok(Exit::Ok)
}

fn show(settings: &Settings, clusters: &[&Cluster], current: Option<&str>) -> anyhow::Result<()> {
    if settings.json {
        for cluster in clusters {
            output::json(&Json {
                cluster: cluster.shown(),
                id: &cluster.id,
                current: current == Some(cluster.id.as_str()),
                asked: &cluster.asked,
                servers: &cluster.servers,
            })?;
        }
        return Ok(());
    }
    let columns =
        [("CLUSTER", Align::Left), ("", Align::Left), ("ID", Align::Left), ("SERVERS", Align::Left)];
    let row = |cluster: &&Cluster| -> Vec<Cell> {
        let servers =
            if cluster.asked.is_empty() { cluster.servers.join(",") } else { cluster.asked.clone() };
        let star = if current == Some(cluster.id.as_str()) { "*" } else { "" };
        vec![
            safe(cluster.shown(), "").into(),
            star.into(),
            short(&cluster.id).into(),
            safe(&servers, "").into(),
        ]
    };
    output::block(&render(settings.style, &columns, &clusters.iter().map(row).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_address() {
        for name in ["local-a1ea9570", "play", "be10", "."] {
            assert_eq!(seeds(name), None, "{name}");
        }
        for address in ["127.0.0.1:7400", "chat.example.com", "n1:7400", "[::1]:7400", "conclave+srv://z"] {
            assert!(seeds(address).is_some(), "{address}");
        }
    }
}
