//! What this user knows about the identities of clusters.
//!
//! * `STATE_DIR/<cluster id>/.tls`: the id of the cluster's certificate authority. A cluster with this file is never spoken
//!   to in plain text again. A user's name cannot begin with a dot, so programs of version 0.1.0, which know only the
//!   users' directories, skip the file.
//! * `STATE_DIR/<cluster id>/.cluster`: the cluster's name, and how its servers are found.
//! * `STATE_DIR/current-cluster`: the id of the cluster that commands use unless they name another one.
//! * `STATE_DIR/last-cluster`: the cluster's id for each list of servers that was given.
//! * `STATE_DIR/known-servers`: the authorities of servers by address, which `conclave up` writes for its own servers.
//!
//! Only their owner can read them.

mod servers;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use conclave_client::CaId;
use conclave_client::find::{Seed, ZONE};

use crate::exit::{Exit, Failed};
use crate::limits::{
    KNOWN_CLUSTERS_MAX, KNOWN_FILE_BYTES_MAX, KNOWN_RECORD_BYTES_MAX, KNOWN_RECORDS_MAX, KNOWN_SERVERS_MAX,
};
use crate::login::USER;
use crate::{files, parse, private};

const AUTHORITY: &str = ".tls";
const CLUSTER: &str = ".cluster";
const CURRENT: &str = "current-cluster";
const RECORDED: &str = "last-cluster";

/// A cluster that this user has used, or has started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Its id, 32 hexadecimal digits.
    pub(crate) id: String,
    /// The name that its servers have told; empty if they have told none.
    pub(crate) name: String,
    /// The name that the user has given to it; empty if there is none.
    pub(crate) alias: String,
    /// The servers to search, as they were given; empty for all that can be found.
    pub(crate) asked: String,
    /// Addresses at which its servers were met.
    pub(crate) servers: Vec<String>,
}

impl Cluster {
    /// The name to show: the user's, the cluster's, or the beginning of the id.
    pub(crate) fn shown(&self) -> &str {
        [&self.alias, &self.name]
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or_else(|| short(&self.id), String::as_str)
    }

    /// Whether people mean this cluster by this text: a name, or the beginning of the id.
    pub(crate) fn is_meant(&self, text: &str) -> bool {
        let id = text.len() >= 4 && self.id.starts_with(&text.to_ascii_lowercase());
        id || self.alias == text || self.name == text
    }

    /// The seeds to search.
    pub(crate) fn seeds(&self) -> Vec<Seed> {
        parse::seeds(&self.asked).map(|seeds| seeds.0).unwrap_or_default()
    }
}

/// The beginning of a cluster's id, which people see.
pub(crate) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Checks an id that becomes the name of a directory.
pub(crate) fn is_cluster_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The known identities in a state directory.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    state_dir: PathBuf,
}

impl Known {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// The certificate authority of a cluster; `None` if nothing says that it uses TLS.
    ///
    /// # Errors
    /// If the file is there and cannot be read: then the cluster must not be spoken to at all.
    pub(crate) fn authority(&self, cluster_id: &str) -> Result<Option<CaId>, Failed> {
        let path = self.state_dir.join(cluster_id).join(AUTHORITY);
        let failed = |why: String| {
            let what = format!("the identity of the cluster in {} cannot be read: {why}", path.display());
            Failed::new(Exit::Refused, what, "write the 32 digits of the cluster's authority into it")
        };
        match read(&path) {
            Ok(Some(text)) => text.trim().parse().map(Some).map_err(|error| failed(format!("{error}"))),
            Ok(None) => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Whether this user has spoken to the cluster before.
    pub(crate) fn has(&self, cluster_id: &str) -> bool {
        self.state_dir.join(cluster_id).is_dir()
    }

    /// Keeps the certificate authority of a cluster.
    pub(crate) fn remember(&self, cluster_id: &str, authority: CaId) -> io::Result<()> {
        let dir = self.state_dir.join(cluster_id);
        private::create_dir(&dir)?;
        replace(&dir.join(AUTHORITY), &format!("{authority}\n"))
    }

    /// Everything known about a cluster. A file that cannot be read counts as empty: it is only about names and addresses.
    pub(crate) fn cluster(&self, id: &str) -> Cluster {
        let mut cluster = Cluster { id: id.to_owned(), ..Cluster::default() };
        let text = read(&self.state_dir.join(id).join(CLUSTER)).ok().flatten().unwrap_or_default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match key {
                "name" => value.clone_into(&mut cluster.name),
                "alias" => value.clone_into(&mut cluster.alias),
                "asked" => value.clone_into(&mut cluster.asked),
                "server" => cluster.servers.push(value.to_owned()),
                _ => {}
            }
        }
        cluster
    }

    /// Keeps what is known about a cluster.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn keep(&self, cluster: &Cluster) -> io::Result<()> {
        if *cluster == self.cluster(&cluster.id) {
            return Ok(());
        }
        let line = |key: &str, value: &str| match value {
            "" => String::new(),
            value => format!("{key} {}\n", value.replace(char::is_control, " ")),
        };
        let mut text = [("name", &cluster.name), ("alias", &cluster.alias), ("asked", &cluster.asked)]
            .map(|(key, value)| line(key, value))
            .concat();
        cluster
            .servers
            .iter()
            .take(KNOWN_SERVERS_MAX)
            .for_each(|server| text.push_str(&line("server", server)));
        let dir = self.state_dir.join(&cluster.id);
        private::create_dir(&dir)?;
        replace(&dir.join(CLUSTER), &text)
    }

    /// All known clusters, by name.
    pub(crate) fn clusters(&self) -> Vec<Cluster> {
        let Ok(entries) = fs::read_dir(&self.state_dir) else { return Vec::new() };
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ids = ids.filter(|id| is_cluster_id(id)).take(KNOWN_CLUSTERS_MAX);
        let mut clusters: Vec<Cluster> = ids.map(|id| self.cluster(&id)).collect();
        clusters.sort_by(|a, b| (a.shown(), &a.id).cmp(&(b.shown(), &b.id)));
        clusters
    }

    /// The cluster that commands use if they name no servers. Version 0.1.0 kept none: it is the one of the default zone,
    /// or the only one.
    pub(crate) fn current(&self) -> Option<Cluster> {
        let chosen = read(&self.state_dir.join(CURRENT)).ok().flatten();
        if let Some(id) = chosen.as_deref().map(str::trim).filter(|id| is_cluster_id(id)) {
            return Some(self.cluster(id));
        }
        if let Some(id) = self.recorded(ZONE) {
            return Some(self.cluster(&id));
        }
        let recorded = self.records();
        let (asked, id) = recorded.first()?;
        let mut only = self.cluster(id);
        if only.asked.is_empty() {
            only.asked.clone_from(asked);
        }
        recorded.iter().all(|(_, other)| other == id).then_some(only)
    }

    /// Checks that the files which say what cluster is meant can be read.
    ///
    /// # Errors
    /// If one of them is damaged: then any cluster would be as good as the known one.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        let is_record = |line: &str| line.split_once(' ').is_some_and(|(id, _)| is_cluster_id(id));
        for (name, about) in
            [(CURRENT, "names your current cluster"), (RECORDED, "has the clusters of your servers")]
        {
            let path = self.state_dir.join(name);
            let why = match read(&path) {
                Ok(None) => continue,
                Ok(Some(text)) if name == CURRENT && is_cluster_id(text.trim()) => continue,
                Ok(Some(text)) if name == RECORDED && text.lines().all(is_record) => continue,
                Ok(Some(_)) => "it is damaged".to_owned(),
                Err(error) => error.to_string(),
            };
            let what = format!("{}, which {about}, cannot be read: {why}", path.display());
            return Err(Failed::new(
                Exit::Refused,
                what,
                "mend it, or remove it and choose a cluster: conclave use",
            ));
        }
        Ok(())
    }

    /// Where it is said which authority a cluster has.
    pub(crate) fn says_authority(&self, cluster_id: &str) -> String {
        self.state_dir.join(cluster_id).join(AUTHORITY).display().to_string()
    }

    /// Where it is said which cluster commands use.
    pub(crate) fn says_current(&self) -> String {
        self.place_of(CURRENT, |_| false)
    }

    /// Where it is said which cluster was met at these searched servers.
    pub(crate) fn says_recorded(&self, asked: &str) -> String {
        self.place_of(RECORDED, |line| line.split_once(' ').is_some_and(|(_, other)| other == asked))
    }

    /// A file, and its first line that is meant.
    fn place_of(&self, name: &str, is_meant: impl Fn(&str) -> bool) -> String {
        let path = self.state_dir.join(name);
        let text = read(&path).ok().flatten().unwrap_or_default();
        let at = text.lines().position(is_meant).map(|at| format!(", line {}", at + 1));
        format!("{}{}", path.display(), at.unwrap_or_default())
    }

    /// Makes a cluster the one that commands use.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn set_current(&self, id: &str) -> io::Result<()> {
        private::create_dir(&self.state_dir)?;
        replace(&self.state_dir.join(CURRENT), &format!("{id}\n"))
    }

    /// The cluster that was met at these searched servers.
    pub(crate) fn recorded(&self, asked: &str) -> Option<String> {
        self.records().into_iter().find(|(other, _)| other == asked).map(|(_, id)| id)
    }

    /// Records the cluster of these searched servers.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn record(&self, asked: &str, id: &str) -> io::Result<()> {
        let mut records = self.records();
        // The oldest are dropped first, so one that is in use moves to the end in time.
        let is_new = |at: usize| at + KNOWN_RECORDS_MAX / 2 >= records.len();
        let known = records.iter().position(|(other, known)| other == asked && known == id);
        if known.is_some_and(is_new) {
            return Ok(());
        }
        records.retain(|(other, _)| other != asked);
        records.push((asked.to_owned(), id.to_owned()));
        self.write_records(&records)
    }

    /// Forgets which other clusters were met at these addresses, where a new cluster runs now.
    fn forget_others(&self, addresses: &[String], id: &str) -> io::Result<()> {
        let before = self.records();
        let taken = |seed: &Seed| match seed {
            Seed::Node(address) | Seed::Pinned { address, .. } => addresses.contains(address),
            Seed::Zone { name_servers, .. } => {
                name_servers.iter().any(|server| addresses.contains(&server.to_string()))
            }
        };
        let stays = |(asked, other): &&(String, String)| {
            other == id || !parse::seeds(asked).is_ok_and(|seeds| seeds.0.iter().any(taken))
        };
        let after: Vec<_> = before.iter().filter(stays).cloned().collect();
        if after == before { Ok(()) } else { self.write_records(&after) }
    }

    /// Forgets a cluster that is gone for good, and what was said about these addresses, at which it ran. The sessions of
    /// users stay.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn forget(&self, cluster_id: &str, addresses: &[String]) -> io::Result<()> {
        let dir = self.state_dir.join(cluster_id);
        let current = self.state_dir.join(CURRENT);
        let is_current = read(&current)?.is_some_and(|id| id.trim() == cluster_id);
        let files = [AUTHORITY, CLUSTER, USER].map(|name| dir.join(name));
        for file in files.into_iter().chain(is_current.then_some(current)) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut records = self.records();
        let before = records.len();
        records.retain(|(_, id)| id != cluster_id);
        if records.len() < before {
            self.write_records(&records)?;
        }
        self.forget_servers(addresses)
    }

    /// The recorded ids by searched servers: one line `ID ASKED` each.
    fn records(&self) -> Vec<(String, String)> {
        let text = read(&self.state_dir.join(RECORDED)).ok().flatten().unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter(|(id, _)| is_cluster_id(id))
            .map(|(id, asked)| (asked.to_owned(), id.to_owned()))
            .collect()
    }

    fn write_records(&self, records: &[(String, String)]) -> io::Result<()> {
        let mut text = String::new();
        // The oldest go, and also the longest if the file would not be read again.
        for (asked, id) in records.iter().rev().take(KNOWN_RECORDS_MAX).rev() {
            let line = format!("{id} {asked}\n");
            if line.len() <= KNOWN_RECORD_BYTES_MAX {
                text.push_str(&line);
            }
        }
        private::create_dir(&self.state_dir)?;
        replace(&self.state_dir.join(RECORDED), &text)
    }

    /// Keeps a cluster that this user has started. It becomes the current one if there is none, or if it runs where the
    /// current one ran. Returns whether it is the current one.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn started(&self, cluster: &Cluster, name_server: Option<&str>) -> io::Result<bool> {
        let before = self.current();
        let mut addresses = cluster.servers.clone();
        addresses.extend(name_server.map(str::to_owned));
        self.forget_others(&addresses, &cluster.id)?;
        self.keep(&Cluster { alias: self.cluster(&cluster.id).alias, ..cluster.clone() })?;
        let replaces = |before: &Cluster| {
            let seeds = before.seeds();
            let given = seeds.iter().any(|seed| addresses.iter().any(|own| *own == seed.to_string()));
            given || before.servers.iter().any(|server| addresses.contains(server))
        };
        match before {
            Some(before) if before.id == cluster.id => Ok(true),
            Some(before) if !replaces(&before) => Ok(false),
            _ => self.set_current(&cluster.id).map(|()| true),
        }
    }
}

/// The text of a file; `None` if there is no such file.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(KNOWN_FILE_BYTES_MAX).read_to_string(&mut text).map(|_| Some(text)),
        // Where there is no directory, there is no file.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Replaces a file. Only its owner can read it, also if an older version made it: it says where this user's clusters are.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    files::replace(path, text)?;
    private::restrict(&File::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> Vec<String> {
        ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    #[test]
    fn the_authority_of_a_cluster_is_kept_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let id = "ab".repeat(16);
        assert_eq!((known.authority(&id).unwrap(), known.has(&id)), (None, false));
        known.remember(&id, CaId(7)).unwrap();
        assert_eq!((known.authority(&id).unwrap(), known.has(&id)), (Some(CaId(7)), true));
        fs::write(dir.path().join(&id).join(AUTHORITY), "noise").unwrap();
        assert!(known.authority(&id).unwrap_err().what.contains("32 digits"));
    }

    #[test]
    fn damage_of_what_says_which_cluster_is_meant_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        known.check().unwrap();
        known.set_current(&id("1")).unwrap();
        known.record("a:1", &id("1")).unwrap();
        known.check().unwrap();
        for (name, bad) in [(CURRENT, &b"noise"[..]), (RECORDED, b"noise a:1\n"), (RECORDED, b"\xff")] {
            let path = dir.path().join(name);
            let before = fs::read(&path).unwrap();
            fs::write(&path, bad).unwrap();
            let failed = known.check().unwrap_err();
            assert!(failed.what.contains(name), "{failed}");
            fs::write(&path, before).unwrap();
        }
    }

    #[test]
    fn others_learn_nothing_about_known_clusters() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(&dir.path().join("state"));
        let id = "ab".repeat(16);
        known.set_servers(&addresses(&[1]), Some(CaId(7))).unwrap();
        known.remember(&id, CaId(7)).unwrap();
        for path in ["state", "state/known-servers", &format!("state/{id}"), &format!("state/{id}/.tls")] {
            let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
            assert_eq!(mode & private::FOREIGN, 0, "{path}");
        }
    }

    fn id(digit: &str) -> String {
        digit.repeat(32)
    }

    #[test]
    fn the_cluster_is_recorded_for_each_list_of_servers() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(&dir.path().join("state"));
        let (here, there) = ("a:1,b:2", "conclave+srv://z");
        assert_eq!(known.recorded(here), None);
        known.record(here, &id("1")).unwrap();
        known.record(there, &id("2")).unwrap();
        known.record(here, &id("3")).unwrap();
        assert_eq!((known.recorded(here), known.recorded(there)), (Some(id("3")), Some(id("2"))));
        assert_eq!(fs::read_to_string(dir.path().join("state/last-cluster")).unwrap().lines().count(), 2);
        known.forget_others(&["b:2".to_owned()], &id("4")).unwrap();
        assert_eq!((known.recorded(here), known.recorded(there)), (None, Some(id("2"))));
    }

    #[test]
    fn the_current_cluster_is_the_chosen_one_or_that_of_an_earlier_version() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let current = || known.current().map(|cluster| (cluster.id, cluster.asked));
        assert_eq!(current(), None);
        known.record("a:1", &id("1")).unwrap();
        assert_eq!(current(), Some((id("1"), "a:1".to_owned())));
        known.record("b:1", &id("2")).unwrap();
        assert_eq!(current(), None, "either may be meant");
        known.record(ZONE, &id("2")).unwrap();
        assert_eq!(current(), Some((id("2"), String::new())));
        known.set_current(&id("1")).unwrap();
        assert_eq!(current(), Some((id("1"), String::new())));
    }

    #[test]
    fn a_cluster_is_kept_with_its_names_and_found_by_them() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let cluster = Cluster {
            id: id("a"),
            name: "local-1 of\nana".into(),
            alias: "play".into(),
            asked: "a:1,b:2".into(),
            servers: addresses(&[1, 2]),
        };
        known.keep(&cluster).unwrap();
        let kept = known.clusters().remove(0);
        assert_eq!(kept, Cluster { name: "local-1 of ana".into(), ..cluster });
        assert_eq!((kept.shown(), kept.seeds().len()), ("play", 2));
        assert!(["play", "local-1 of ana", "aaaa", "AAAAA"].iter().all(|text| kept.is_meant(text)));
        assert!(!["", "aaa", "b", "local"].iter().any(|text| kept.is_meant(text)));
        assert_eq!(known.cluster(&id("b")).shown(), "bbbbbbbb");
    }

    #[test]
    fn a_cluster_that_is_started_becomes_the_current_one_only_in_place_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let at = |id: String, ports: &[u16]| Cluster { id, servers: addresses(ports), ..Cluster::default() };
        assert!(known.started(&at(id("1"), &[1, 2]), None).unwrap(), "there is no other");
        assert!(!known.started(&at(id("2"), &[5, 6]), None).unwrap(), "the user may mean the first one");
        assert_eq!(known.current().unwrap().id, id("1"));
        assert!(known.started(&at(id("3"), &[2, 3]), None).unwrap(), "it runs where the first one ran");
        assert_eq!(known.current().unwrap().id, id("3"));
    }
    #[test]
    fn servers_that_are_used_stay_recorded_however_many_others_come() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        known.record("daily", &id("1")).unwrap();
        known.record("once", &id("1")).unwrap();
        for port in 0..2 * KNOWN_RECORDS_MAX {
            known.record(&format!("127.0.0.1:{port}"), &id("2")).unwrap();
            known.record("daily", &id("1")).unwrap();
        }
        assert_eq!((known.recorded("daily"), known.recorded("once")), (Some(id("1")), None));
    }

    #[test]
    fn a_cluster_that_is_gone_stands_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        known.forget(&id("1"), &addresses(&[1])).unwrap();
        for (digit, port) in [("1", 1), ("2", 2)] {
            known.set_servers(&addresses(&[port]), Some(CaId(7))).unwrap();
            known.remember(&id(digit), CaId(7)).unwrap();
            known.record(digit, &id(digit)).unwrap();
        }
        known.set_current(&id("1")).unwrap();
        known.forget(&id("1"), &addresses(&[1])).unwrap();
        assert_eq!((known.authority(&id("1")).unwrap(), known.recorded("1")), (None, None));
        assert_eq!(known.of_servers(&addresses(&[1])).unwrap(), None);
        assert_eq!(known.current().map(|current| current.id), Some(id("2")));
        assert_eq!(known.of_servers(&addresses(&[2])).unwrap(), Some(Some(CaId(7))));
        known.set_current(&id("2")).unwrap();
        known.forget(&id("1"), &addresses(&[1])).unwrap();
        assert_eq!(known.current().map(|current| current.id), Some(id("2")));
    }
}
