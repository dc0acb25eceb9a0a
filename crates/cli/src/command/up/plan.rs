//! The plan of `conclave up`: the servers with their directories and ports, and the name server. A part of it is saved
//! in the directory, so that the next run continues the same cluster.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use conclave_client::CaId;
use conclave_client::find::{CLIENT_PORT, ZONE};
use conclave_pki::{Ca, PkiError};
use serde::{Deserialize, Serialize};

use super::cannot_use;
use super::loopback::loopback;
use crate::args::server::UpArgs;
use crate::certificates::{self, Named, Owner};
use crate::exit::{Exit, Failed};
use crate::{admin_token, private, secret};

/// The format of a cluster without TLS.
const FORMAT: u32 = 1;
/// The format of a cluster with TLS, which version 0.1.0 cannot run.
const FORMAT_TLS: u32 = 2;
const NODES_DEFAULT: u16 = 3;
const SHARDS_DEFAULT: u32 = 8;
/// The distance between the base ports of two nodes.
const PORTS_EACH: u16 = 10;
/// The distance of the name server's first port from the base port. No node uses these ports.
const NAME_SERVER_OFFSET: u16 = 53;
/// The distance of a node's port for browsers from its first port: none of the name server's ports is that far from a node's.
const WEB_OFFSET: u16 = 6;
/// The name of the name server, and of the directory of its certificate.
pub(super) const NAME_SERVER: &str = "ns1";
/// The file with the admin token.
pub(super) const ADMIN_TOKEN: &str = "admin-token";
/// The first part of the cluster's name: see [`reconcile`].
const CLUSTER: &str = "local";

/// The saved part of the plan. The numbers of servers and shards are fixed when the cluster is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedPlan {
    format: u32,
    cluster: String,
    nodes: u16,
    shards: u32,
    base_port: u16,
    /// The id of the cluster's certificate authority; absent in a cluster without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    /// Whether all servers were ready once, so that each has a data dir from then on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    was_ready: bool,
    /// Whether the local user has yet to become the admin of the cluster. Absent in a cluster that began without this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    wants_admin: bool,
}

/// The servers and the name server of a cluster.
#[derive(Debug)]
pub(super) struct UpPlan {
    pub(super) dir: PathBuf,
    pub(super) nodes: Vec<Node>,
    pub(super) resolver: Option<NameServerPlan>,
    /// The file with the admin token.
    pub(super) admin_token: PathBuf,
    tls: Tls,
    /// The certificate authority, once [`UpPlan::secure`] has read or made it.
    authority: Option<CaId>,
    kept: SavedPlan,
    /// Whether the file has this plan.
    is_saved: bool,
}

/// How a cluster comes to TLS, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    /// It began with TLS, or was changed over in an earlier run, or is new.
    Has,
    /// It ran without TLS until now, and is changed over in this run.
    ChangesOver,
    /// It runs without TLS, as the user asks (`--insecure`).
    Refused,
    /// It ran without TLS until now and goes on so, because some of its servers have never started: these would take the
    /// authority for the identity of the cluster, and the others know it by another one.
    Incomplete,
}

/// The name server.
#[derive(Clone, Debug)]
pub(super) struct NameServerPlan {
    /// The directory of its certificate, if the cluster uses TLS.
    pub(super) tls_dir: PathBuf,
    pub(super) zone: String,
    pub(super) dns: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) secret: PathBuf,
    pub(super) log: PathBuf,
}

/// One server.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) log: PathBuf,
    /// The directory of its certificate, if the cluster uses TLS.
    pub(super) tls_dir: PathBuf,
    /// Whether its data dir is gone. A server with another one has forgotten its votes and must not run.
    pub(super) is_lost: bool,
    pub(super) client: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) http: SocketAddr,
    /// The web client, and the HTTP API.
    pub(super) web: SocketAddr,
}

impl UpPlan {
    /// Makes the plan: the command line overrides the saved plan, which overrides the defaults.
    /// A cluster that ran without TLS is changed over to it, unless `insecure`.
    pub(super) fn make(dir: &Path, args: &UpArgs, zone: &str, insecure: bool) -> Result<Self, Failed> {
        let path = file(dir);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => Some(parse(&text).map_err(|what| {
                let what = format!("{} {what}", path.display());
                Failed::new(Exit::Refused, what, "give another --dir, or --ephemeral")
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_data(dir) => {
                let what = format!(
                    "{} has servers' data but no up.json, which says which cluster they are of",
                    dir.display()
                );
                return Err(Failed::new(
                    Exit::Refused,
                    what,
                    "restore up.json from a copy, or give another --dir",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(cannot_use(dir, &error)),
        };
        let before = kept.clone();
        let uses_tls = kept.as_ref().map(|kept| kept.authority.is_some());
        if insecure && uses_tls == Some(true) {
            let what = format!(
                "the cluster in {} uses TLS, and its clients never speak to it without",
                dir.display()
            );
            let next =
                "leave out --insecure (CONCLAVE_INSECURE), or give another --dir for a cluster without TLS";
            return Err(Failed::new(Exit::Refused, what, next));
        }
        let kept = reconcile(dir, kept, args)?;
        let is_saved = before.as_ref() == Some(&kept);
        let beyond = || {
            let what =
                format!("{} servers from port {} on need ports beyond 65535", kept.nodes, kept.base_port);
            Failed::new(Exit::Usage, what, "give a smaller --base-port")
        };
        let ip = loopback();
        let nodes = (0..kept.nodes).map(|index| node(dir, ip, kept.base_port, index)).collect::<Option<_>>();
        let mut nodes: Vec<Node> = nodes.ok_or_else(beyond)?;
        if kept.was_ready {
            find_lost(dir, &mut nodes)?;
        }
        let tls = match uses_tls {
            _ if insecure => Tls::Refused,
            None | Some(true) => Tls::Has,
            Some(false) if began_everywhere_or_nowhere(&nodes)? => Tls::ChangesOver,
            Some(false) => Tls::Incomplete,
        };
        let resolver = match args.no_dns {
            true => None,
            false => Some(resolver(dir, ip, kept.base_port, zone).ok_or_else(beyond)?),
        };
        let admin_token = dir.join(ADMIN_TOKEN);
        Ok(Self { dir: dir.to_owned(), nodes, resolver, admin_token, tls, authority: None, kept, is_saved })
    }

    /// Whether the directory has a saved plan.
    pub(super) fn is_saved_in(dir: &Path) -> bool {
        file(dir).exists()
    }

    /// Reads the certificate authority, or makes the one of a cluster that had none, and issues the certificates that are
    /// missing or due. Does nothing for a cluster without TLS. Must be called before [`UpPlan::save`]. Blocks.
    pub(super) fn secure(&mut self, now: SystemTime) -> anyhow::Result<()> {
        if !matches!(self.tls, Tls::Has | Tls::ChangesOver) {
            return Ok(());
        }
        let pki = pki_dir(&self.dir);
        let ca = match &self.kept.authority {
            Some(_) => Ca::read(&pki).map_err(|error| lost_authority(&pki, &error))?,
            None => Ca::read_or_create(&pki, now).context("a new certificate authority")?.0,
        };
        let id = ca.id().to_string();
        self.is_saved &= self.kept.authority.as_ref() == Some(&id) && self.kept.format == FORMAT_TLS;
        if let Some(known) = self.kept.authority.replace(id.clone()).filter(|known| *known != id) {
            let what = format!("{} has the certificate authority of another cluster, {id}", pki.display());
            return Err(Failed::new(Exit::Refused, what, format!("restore that of {known}")).into());
        }
        self.kept.format = FORMAT_TLS;
        self.authority = Some(ca.id());
        certificates::issue(&pki, &ca, &self.owners()?, now).map(drop)
    }

    /// The owners of certificates.
    fn owners(&self) -> anyhow::Result<Vec<Owner>> {
        let nodes: Vec<Named> = self.nodes.iter().map(|node| Named::only(&node.name)).collect();
        let name_servers: Vec<Named> = self.resolver.iter().map(|_| Named::only(NAME_SERVER)).collect();
        certificates::owners(&nodes, &name_servers, &[]).map_err(anyhow::Error::msg)
    }

    /// The certificate authority of the cluster; `None` without TLS.
    pub(super) fn authority(&self) -> Option<CaId> {
        self.authority
    }

    /// How the cluster comes to TLS, or why not.
    pub(super) fn tls(&self) -> Tls {
        self.tls
    }

    /// Renews the certificates that are due. Servers read them by themselves.
    pub(super) fn renewal(&self) -> impl FnOnce(SystemTime) -> anyhow::Result<()> + Send + use<> {
        let pki = self.authority.map(|_| pki_dir(&self.dir));
        let owners = self.owners();
        move |now| {
            let Some(pki) = pki else { return Ok(()) };
            let ca = Ca::read(&pki).map_err(|error| lost_authority(&pki, &error))?;
            certificates::issue(&pki, &ca, &owners?, now).map(drop)
        }
    }

    pub(super) fn cluster(&self) -> &str {
        &self.kept.cluster
    }

    pub(super) fn shards(&self) -> u32 {
        self.kept.shards
    }

    /// Whether clients find the cluster at the default ports.
    pub(super) fn at_default_ports(&self) -> bool {
        self.kept.base_port == CLIENT_PORT
    }

    /// Whether a command without any address finds the cluster.
    pub(super) fn is_found_by_default(&self) -> bool {
        self.at_default_ports() && self.resolver.as_ref().is_none_or(|resolver| resolver.zone == ZONE)
    }

    /// The client addresses.
    pub(super) fn client_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.to_string()).collect()
    }

    /// The client addresses, separated by commas.
    pub(super) fn servers(&self) -> String {
        self.client_addresses().join(",")
    }

    /// Saves the plan for the next run. Must be called before a process is started.
    pub(super) fn save(&self) -> Result<(), Failed> {
        let save = || -> io::Result<()> {
            // A plan that is saved already needs no space: the cluster starts on a full disk, too.
            if !self.is_saved {
                write(&self.dir, &self.kept)?;
            }
            self.make_secrets()
        };
        save().map_err(|error| cannot_use(&self.dir, &error))
    }

    /// Saves for the next run that all servers were ready. Blocks.
    pub(super) fn saving_ready(&self) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let dir = self.dir.clone();
        let is_news = !self.kept.was_ready;
        let kept = SavedPlan { was_ready: true, ..self.kept.clone() };
        move || if is_news { write(&dir, &kept) } else { Ok(()) }
    }

    /// Whether the local user has yet to become the admin of the cluster.
    pub(super) fn wants_admin(&self) -> bool {
        self.kept.wants_admin
    }

    /// Saves for the next run that all servers were ready, and that the cluster has an admin. Blocks.
    pub(super) fn saving_admin(&self) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let dir = self.dir.clone();
        let kept = SavedPlan { was_ready: true, wants_admin: false, ..self.kept.clone() };
        move || write(&dir, &kept)
    }

    /// The servers whose data dirs are gone.
    pub(super) fn lost(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_lost)
    }

    /// Makes the secrets that are not there.
    fn make_secrets(&self) -> io::Result<()> {
        admin_token::create(&self.admin_token)?;
        if let Some(resolver) = &self.resolver {
            secret::create(&resolver.secret)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    /// Checks that all ports are free, so that the error names the port instead of a server's log.
    pub(super) fn free_ports(
        &self,
        tcp: impl Fn(SocketAddr) -> io::Result<()>,
        udp: impl Fn(SocketAddr) -> io::Result<()>,
    ) -> Result<(), Failed> {
        let taken = |address: SocketAddr, name: &str, error: &io::Error| {
            let port = address.port();
            let what = if error.kind() == io::ErrorKind::AddrInUse {
                format!("port {port} (for {name}) is in use, perhaps by another cluster")
            } else {
                format!("port {port} (for {name}) cannot be used: {error}")
            };
            Failed::new(Exit::Refused, what, "stop what uses it, or give another --base-port")
        };
        for node in &self.nodes {
            for address in [node.client, node.peer, node.http, node.web] {
                tcp(address).map_err(|error| taken(address, &node.name, &error))?;
            }
        }
        if let Some(resolver) = &self.resolver {
            for address in [resolver.dns, resolver.grpc, resolver.http] {
                tcp(address).map_err(|error| taken(address, "the name server", &error))?;
            }
            udp(resolver.dns).map_err(|error| taken(resolver.dns, "the name server", &error))?;
        }
        Ok(())
    }
}

/// Whether the server has begun its data dir.
fn has_begun(node: &Node) -> Result<bool, Failed> {
    let identity = node.dir.join(conclave_server::IDENTITY_FILE);
    identity.try_exists().map_err(|error| cannot_use(&node.dir, &error))
}

/// Marks the servers whose data dirs are gone. The others run without them if they are a majority.
fn find_lost(dir: &Path, nodes: &mut [Node]) -> Result<(), Failed> {
    for node in nodes.iter_mut() {
        node.is_lost = !has_begun(node)?;
    }
    let lost: Vec<&str> = nodes.iter().filter(|node| node.is_lost).map(|node| node.name.as_str()).collect();
    if (nodes.len() - lost.len()) <= nodes.len() / 2 {
        let what = format!(
            "{} has no data of {}, so no majority of the servers is left that remembers its votes and messages",
            dir.display(),
            lost.join(", ")
        );
        let next = "put the directories back as the servers left them last, or give another --dir for a new cluster; \
                    docs/deploy.md, \"A lost volume\"";
        return Err(Failed::new(Exit::Refused, what, next));
    }
    Ok(())
}

/// Whether all servers have begun their data dirs, or none has.
fn began_everywhere_or_nowhere(nodes: &[Node]) -> Result<bool, Failed> {
    let mut begun = 0;
    for node in nodes {
        begun += usize::from(has_begun(node)?);
    }
    Ok(begun == 0 || begun == nodes.len())
}

/// Whether the first server has a directory, which it gets after the plan was saved.
fn has_data(dir: &Path) -> bool {
    node(dir, Ipv4Addr::LOCALHOST.into(), CLIENT_PORT, 0).is_some_and(|node| node.dir.exists())
}

/// The failure to read the authority of a cluster that began with it.
fn lost_authority(pki: &Path, error: &PkiError) -> Failed {
    let what = format!("the certificate authority of the cluster cannot be used: {error}");
    let next = match error {
        PkiError::Exposed(_) => "see whether others may have read it; then chmod 600 it".to_owned(),
        _ => format!("restore ca.key in {} from a copy: it is the identity of the cluster", pki.display()),
    };
    Failed::new(Exit::Refused, what, next)
}

fn write(dir: &Path, plan: &SavedPlan) -> io::Result<()> {
    let path = file(dir);
    let temporary = path.with_extension("json.new");
    let mut out = private::create(&temporary)?;
    serde_json::to_writer_pretty(&mut out, plan)?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()
}

/// The servers of the cluster in this directory, as its saved plan has them.
///
/// # Errors
/// If the plan is damaged or cannot be read.
pub(super) fn saved_nodes(dir: &Path) -> Result<Vec<Node>, Failed> {
    let path = file(dir);
    let text = fs::read_to_string(&path).map_err(|error| cannot_use(&path, &error))?;
    let plan = parse(&text).map_err(|what| {
        Failed::new(Exit::Refused, format!("{} {what}", path.display()), "give another --dir")
    })?;
    Ok((0..plan.nodes).filter_map(|index| node(dir, loopback(), plan.base_port, index)).collect())
}

fn pki_dir(dir: &Path) -> PathBuf {
    dir.join("pki")
}

fn file(dir: &Path) -> PathBuf {
    dir.join("up.json")
}

fn parse(text: &str) -> Result<SavedPlan, String> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is damaged: {error}"))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) || format == u64::from(FORMAT_TLS) => {}
        Some(_) => return Err("was written by a newer version of conclave".to_owned()),
        None => return Err("is not what `conclave up` writes".to_owned()),
    }
    serde_json::from_value(value).map_err(|error| format!("is damaged: {error}"))
}

/// Merges the saved plan with the command line. A new directory gets a new cluster with a unique name: the cluster id
/// follows from the name, and a client's session and unsent messages must never reach another cluster at the same
/// ports.
fn reconcile(dir: &Path, kept: Option<SavedPlan>, args: &UpArgs) -> Result<SavedPlan, Failed> {
    let Some(mut kept) = kept else {
        return Ok(SavedPlan {
            format: FORMAT,
            cluster: format!("{CLUSTER}-{:08x}", rand::random::<u32>()),
            nodes: args.nodes.unwrap_or(NODES_DEFAULT),
            shards: args.shards.unwrap_or(SHARDS_DEFAULT),
            base_port: args.base_port.unwrap_or(CLIENT_PORT),
            authority: None,
            was_ready: false,
            wants_admin: !args.open && !args.ephemeral,
        });
    };
    let differs = |what: &str, flag: &str, has: u32, wants: u32| {
        let what = format!("the cluster in {} began with {has} {what} and not with {wants}", dir.display());
        Failed::new(Exit::Refused, what, format!("leave out {flag}, or give another --dir"))
    };
    if let Some(nodes) = args.nodes.filter(|nodes| *nodes != kept.nodes) {
        return Err(differs("servers", "--nodes", u32::from(kept.nodes), u32::from(nodes)));
    }
    if let Some(shards) = args.shards.filter(|shards| *shards != kept.shards) {
        return Err(differs("shards", "--shards", kept.shards, shards));
    }
    kept.base_port = args.base_port.unwrap_or(kept.base_port);
    Ok(kept)
}

fn node(dir: &Path, ip: IpAddr, base_port: u16, index: u16) -> Option<Node> {
    let port = base_port.checked_add(PORTS_EACH.checked_mul(index)?)?;
    // Ports are fixed, so that a second terminal finds the cluster. Port 0 would be a different one each time.
    let at = |offset: u16| {
        let port = port.checked_add(offset).filter(|port| *port != 0)?;
        Some(SocketAddr::new(ip, port))
    };
    let name = format!("node{}", index + 1);
    Some(Node {
        dir: dir.join(&name),
        log: dir.join(format!("{name}.log")),
        is_lost: false,
        tls_dir: pki_dir(dir).join(&name),
        client: at(0)?,
        peer: at(1)?,
        http: at(2)?,
        web: at(WEB_OFFSET)?,
        name,
    })
}

fn resolver(dir: &Path, ip: IpAddr, base_port: u16, zone: &str) -> Option<NameServerPlan> {
    let at = |offset: u16| {
        let port = base_port.checked_add(NAME_SERVER_OFFSET)?.checked_add(offset)?;
        Some(SocketAddr::new(ip, port))
    };
    Some(NameServerPlan {
        tls_dir: pki_dir(dir).join(NAME_SERVER),
        zone: zone.to_owned(),
        dns: at(0)?,
        grpc: at(1)?,
        http: at(2)?,
        secret: dir.join("secret"),
        log: dir.join("resolver.log"),
    })
}

#[cfg(test)]
pub(super) mod tests;
