//! The plan of `conclave up`: the servers with their directories and ports, and the name server. A part of it is saved
//! in the directory, so that the next run continues the same cluster.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use conclave_client::CaId;
use conclave_client::find::{CLIENT_PORT, ZONE};
use conclave_pki::{Ca, PkiError};
use serde::{Deserialize, Serialize};

use super::cannot_use;
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
/// The name of the name server, and of the directory of its certificate.
pub(super) const NAME_SERVER: &str = "ns1";
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
    pub(super) client: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) http: SocketAddr,
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
        let nodes = (0..kept.nodes).map(|index| node(dir, kept.base_port, index)).collect::<Option<_>>();
        let nodes: Vec<Node> = nodes.ok_or_else(beyond)?;
        let tls = match uses_tls {
            _ if insecure => Tls::Refused,
            None | Some(true) => Tls::Has,
            Some(false) if began_everywhere_or_nowhere(&nodes)? => Tls::ChangesOver,
            Some(false) => Tls::Incomplete,
        };
        let resolver = match args.no_dns {
            true => None,
            false => Some(resolver(dir, kept.base_port, zone).ok_or_else(beyond)?),
        };
        let admin_token = dir.join("admin-token");
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
        let write = || -> io::Result<()> {
            let path = file(&self.dir);
            // A plan that is saved already needs no space: the cluster starts on a full disk, too.
            if self.is_saved {
                return self.make_secrets();
            }
            let temporary = path.with_extension("json.new");
            let mut out = private::create(&temporary)?;
            serde_json::to_writer_pretty(&mut out, &self.kept)?;
            out.write_all(b"\n")?;
            out.sync_all()?;
            fs::rename(&temporary, &path)?;
            self.make_secrets()
        };
        write().map_err(|error| cannot_use(&self.dir, &error))
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
            for address in [node.client, node.peer, node.http] {
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

/// Whether all servers have begun their data dirs, or none has.
fn began_everywhere_or_nowhere(nodes: &[Node]) -> Result<bool, Failed> {
    let mut begun = 0;
    for node in nodes {
        let identity = node.dir.join(conclave_server::IDENTITY_FILE);
        begun += usize::from(identity.try_exists().map_err(|error| cannot_use(&node.dir, &error))?);
    }
    Ok(begun == 0 || begun == nodes.len())
}

/// Whether the first server has a directory, which it gets after the plan was saved.
fn has_data(dir: &Path) -> bool {
    node(dir, CLIENT_PORT, 0).is_some_and(|node| node.dir.exists())
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

fn node(dir: &Path, base_port: u16, index: u16) -> Option<Node> {
    let port = base_port.checked_add(PORTS_EACH.checked_mul(index)?)?;
    // Ports are fixed, so that a second terminal finds the cluster. Port 0 would be a different one each time.
    let at = |offset: u16| {
        let port = port.checked_add(offset).filter(|port| *port != 0)?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let name = format!("node{}", index + 1);
    Some(Node {
        dir: dir.join(&name),
        log: dir.join(format!("{name}.log")),
        tls_dir: pki_dir(dir).join(&name),
        client: at(0)?,
        peer: at(1)?,
        http: at(2)?,
        name,
    })
}

fn resolver(dir: &Path, base_port: u16, zone: &str) -> Option<NameServerPlan> {
    let at = |offset: u16| {
        let port = base_port.checked_add(NAME_SERVER_OFFSET)?.checked_add(offset)?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
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
pub(super) mod tests {
    use super::*;
    use crate::args::server::Mdns;

    pub(in crate::command::up) fn args(
        nodes: Option<u16>,
        shards: Option<u32>,
        base_port: Option<u16>,
    ) -> UpArgs {
        UpArgs {
            nodes,
            dir: None,
            ephemeral: false,
            base_port,
            shards,
            no_restart: false,
            no_dns: false,
            allow_faults: false,
            exit_with_stdin: false,
            mdns: Mdns::Auto,
            log: "info".into(),
        }
    }

    fn make(dir: &Path, args: &UpArgs) -> Result<UpPlan, Failed> {
        UpPlan::make(dir, args, "conclave.internal", true)
    }

    #[test]
    fn ports_are_where_the_help_says() {
        let dir = tempfile::tempdir().unwrap();
        let plan = make(dir.path(), &args(None, None, None)).unwrap();
        assert_eq!(plan.servers(), "127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420");
        assert_eq!((plan.nodes[2].peer.port(), plan.nodes[2].http.port()), (7421, 7422));
        let resolver = plan.resolver.unwrap();
        assert_eq!([resolver.dns, resolver.grpc, resolver.http].map(|at| at.port()), [7453, 7454, 7455]);
        // No node uses a port of the name server, however many nodes there are.
        let many = make(dir.path(), &args(Some(9), None, None)).unwrap();
        assert_eq!([5, 6].map(|node: usize| many.nodes[node].client.port()), [7450, 7460]);
        let none = make(dir.path(), &UpArgs { no_dns: true, ..args(None, None, None) }).unwrap();
        assert!(none.resolver.is_none());
    }

    #[test]
    fn the_next_run_continues_the_saved_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let first = make(dir.path(), &args(Some(5), Some(2), Some(9000))).unwrap();
        first.save().unwrap();
        let same = make(dir.path(), &args(None, None, None)).unwrap();
        assert_eq!((same.nodes.len(), same.shards(), same.nodes[0].client.port()), (5, 2, 9000));
        assert_eq!(same.cluster(), first.cluster());
        let moved = make(dir.path(), &args(Some(5), None, Some(9500))).unwrap();
        assert_eq!(moved.nodes[0].client.port(), 9500);
        let nodes = make(dir.path(), &args(Some(3), None, None)).unwrap_err();
        assert!(nodes.what.contains("began with 5 servers and not with 3"), "{nodes}");
        assert!(nodes.next.contains("--nodes"), "{nodes}");
        let shards = make(dir.path(), &args(None, Some(8), None)).unwrap_err();
        assert!(shards.what.contains("began with 2 shards and not with 8"), "{shards}");
        assert!(shards.next.contains("--shards"), "{shards}");
    }

    #[test]
    fn a_new_cluster_has_an_authority_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
        let plan = |insecure| {
            let mut plan = UpPlan::make(dir.path(), &args(None, None, None), "conclave.internal", insecure)?;
            plan.secure(now).map(|()| plan)
        };
        let first = plan(false).unwrap();
        first.save().unwrap();
        assert!(first.authority().is_some());
        let refused = plan(true).unwrap_err().to_string();
        assert!(refused.contains("uses TLS") && refused.contains("--insecure"), "{refused}");
        let again = plan(false).unwrap();
        assert_eq!((again.authority(), again.tls()), (first.authority(), Tls::Has));
        fs::remove_dir_all(pki_dir(dir.path())).unwrap();
        assert!(plan(false).is_err(), "a lost authority is not replaced");
        Ca::read_or_create(&pki_dir(dir.path()), now).unwrap();
        assert!(plan(false).unwrap_err().to_string().contains("another cluster"));
    }

    #[test]
    fn what_was_lost_is_named_and_how_to_get_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
        let plan = || UpPlan::make(dir.path(), &args(None, None, None), "conclave.internal", false);
        let mut first = plan().unwrap();
        first.secure(now).unwrap();
        first.save().unwrap();
        let key = pki_dir(dir.path()).join("ca.key");
        let content = fs::read_to_string(&key).unwrap();
        for damage in [None, content.get(..60)] {
            match damage {
                Some(text) => fs::write(&key, text).unwrap(),
                None => fs::remove_file(&key).unwrap(),
            }
            if damage.is_some() {
                use std::os::unix::fs::PermissionsExt as _;
                fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            }
            let error = plan().unwrap().secure(now).unwrap_err();
            let failed = error.downcast::<Failed>().unwrap();
            assert!(failed.next.contains("restore ca.key"), "{failed}");
            assert!(
                !failed.what.contains('[') && failed.what.matches("No such file").count() < 2,
                "{failed}"
            );
        }
        fs::create_dir(dir.path().join("node1")).unwrap();
        fs::remove_file(file(dir.path())).unwrap();
        let failed = plan().unwrap_err();
        assert!(failed.what.contains("no up.json") && failed.next.contains("restore"), "{failed}");
        assert!(!UpPlan::is_saved_in(dir.path()));
    }

    #[test]
    fn a_cluster_without_tls_is_changed_over_once_all_its_servers_have_begun() {
        let dir = tempfile::tempdir().unwrap();
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
        let plan = |insecure| {
            UpPlan::make(dir.path(), &args(None, None, None), "conclave.internal", insecure).unwrap()
        };
        plan(true).save().unwrap();
        let text = fs::read_to_string(file(dir.path())).unwrap();
        assert!(
            text.contains("\"format\": 1") && !text.contains("authority"),
            "as version 0.1.0 reads it: {text}"
        );
        for (name, expected) in
            [("node1", Tls::Incomplete), ("node2", Tls::Incomplete), ("node3", Tls::ChangesOver)]
        {
            let data = dir.path().join(name);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("identity"), "").unwrap();
            assert_eq!(plan(false).tls(), expected, "{name}");
            assert_eq!(plan(true).tls(), Tls::Refused);
        }
        for insecure in [true, false] {
            let mut plan = plan(insecure);
            plan.secure(now).unwrap();
            plan.save().unwrap();
            assert_eq!(plan.authority().is_none(), insecure);
        }
        let after = fs::read_to_string(file(dir.path())).unwrap();
        assert!(after.contains("\"format\": 2") && after.contains("authority"), "{after}");
        assert_eq!(plan(false).tls(), Tls::Has);
    }

    #[test]
    fn two_clusters_never_have_the_same_name() {
        let plan = || make(tempfile::tempdir().unwrap().path(), &args(None, None, None)).unwrap();
        assert_ne!(plan().cluster(), plan().cluster());
    }

    #[test]
    fn a_file_that_is_no_saved_plan_is_refused() {
        for text in ["", "{}", "[1]", r#"{"format":3}"#, r#"{"format":2}"#, r#"{"format":1}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let plan = make(dir.path(), &args(None, None, None)).unwrap();
        let busy = |address: SocketAddr| match address.port() {
            7411 => Err(io::Error::from(io::ErrorKind::AddrInUse)),
            _ => Ok(()),
        };
        let free = |_: SocketAddr| Ok(());
        let failed = plan.free_ports(busy, free).unwrap_err();
        assert_eq!(failed.what, "port 7411 (for node2) is in use, perhaps by another cluster");
        assert!(plan.free_ports(free, free).is_ok());
        let failed = plan.free_ports(free, |_| Err(io::Error::from(io::ErrorKind::AddrInUse))).unwrap_err();
        assert_eq!(failed.what, "port 7453 (for the name server) is in use, perhaps by another cluster");
    }
}
