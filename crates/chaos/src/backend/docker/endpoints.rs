//! The network addresses and names of disconnected containers, on disk. The engine forgets them when a container leaves a
//! network, and they are needed to connect it again, also after a crash of the controller.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::BackendError;
use crate::backend::docker::model::{Endpoint, Inspected};

/// A container's endpoint in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedEndpoint {
    pub(super) network: String,
    /// Empty if the container had no address.
    pub(super) address: String,
    pub(super) aliases: Vec<String>,
}

impl SavedEndpoint {
    /// The endpoints that a container has now.
    pub(super) fn of(container: &Inspected) -> Vec<Self> {
        let networks = container.network_settings.networks.iter();
        networks.map(|(network, endpoint)| Self::at(network, endpoint, &container.id)).collect()
    }

    fn at(network: &str, endpoint: &Endpoint, id: &str) -> Self {
        // The engine adds the container's short id as an alias by itself.
        let given = |alias: &&String| !id.starts_with(alias.as_str());
        Self {
            network: network.to_owned(),
            address: endpoint.address().unwrap_or_default().to_owned(),
            aliases: endpoint.aliases.iter().flatten().filter(given).cloned().collect(),
        }
    }

    /// Whether a container has this endpoint now, with all its aliases.
    pub(super) fn is_taken_by(&self, container: &Inspected) -> bool {
        let now = container.network_settings.networks.get(&self.network);
        now.map(|endpoint| Self::at(&self.network, endpoint, &container.id)).is_some_and(|now| {
            now.address == self.address && self.aliases.iter().all(|alias| now.aliases.contains(alias))
        })
    }
}

/// The file of endpoints, by service name.
#[derive(Debug)]
pub(super) struct EndpointFile {
    path: PathBuf,
}

impl EndpointFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// All endpoints in the file.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub(super) fn read(&self) -> Result<BTreeMap<String, Vec<SavedEndpoint>>, BackendError> {
        match fs::read(&self.path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| self.failed(&error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Writes a container's endpoints and syncs, unless the file has some for it already: only the first ones are those from
    /// before the fault.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn save(&self, name: &str, places: Vec<SavedEndpoint>) -> Result<(), BackendError> {
        let mut all = self.read()?;
        if places.is_empty() || all.contains_key(name) {
            return Ok(());
        }
        all.insert(name.to_owned(), places);
        self.write(&all)
    }

    /// Removes the endpoints of a container that is connected again.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn remove(&self, name: &str) -> Result<(), BackendError> {
        let mut all = self.read()?;
        if all.remove(name).is_none() { Ok(()) } else { self.write(&all) }
    }

    fn write(&self, all: &BTreeMap<String, Vec<SavedEndpoint>>) -> Result<(), BackendError> {
        let new = self.path.with_extension("new");
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(all)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        written().map_err(|error: io::Error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> BackendError {
        let what = format!("keep the endpoints of disconnected containers in {}", self.path.display());
        BackendError::Failed { what, why: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(networks: &str) -> Inspected {
        let text = format!(
            r#"{{"Id": "0123456789abcdef", "State": {{"Running": true}}, "Config": {{}},
                 "NetworkSettings": {{"Networks": {networks}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn an_endpoint_is_the_address_and_the_configured_aliases() {
        let there = r#"{"mesh": {"IPAddress": "10.0.0.5", "IPAMConfig": {"IPv4Address": "10.0.0.5"},
            "Aliases": ["0123456789ab", "n1", "front"]}}"#;
        let places = SavedEndpoint::of(&inspected(there));
        let aliases = vec!["n1".to_owned(), "front".to_owned()];
        let expected = SavedEndpoint { network: "mesh".to_owned(), address: "10.0.0.5".to_owned(), aliases };
        assert_eq!(places, std::slice::from_ref(&expected));
        assert!(expected.is_taken_by(&inspected(there)));
        for elsewhere in [
            "{}",
            r#"{"mesh": {"IPAddress": "10.0.0.6", "Aliases": ["n1", "front"]}}"#,
            r#"{"mesh": {"IPAddress": "10.0.0.5", "Aliases": ["0123456789ab"]}}"#,
            r#"{"mesh": {"IPAddress": "10.0.0.5", "Aliases": null}}"#,
        ] {
            assert!(!expected.is_taken_by(&inspected(elsewhere)), "{elsewhere}");
        }
    }

    #[test]
    fn the_first_endpoints_of_a_container_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let places = EndpointFile::new(dir.path().join("places.json"));
        let place = |address: &str| SavedEndpoint {
            network: "mesh".to_owned(),
            address: address.to_owned(),
            aliases: vec!["n1".to_owned()],
        };
        assert!(places.read().unwrap().is_empty());
        places.save("n1", vec![place("10.0.0.5")]).unwrap();
        places.save("n1", vec![place("10.0.0.9")]).unwrap();
        places.save("n2", Vec::new()).unwrap();
        let again = EndpointFile::new(dir.path().join("places.json"));
        assert_eq!(again.read().unwrap(), BTreeMap::from([("n1".to_owned(), vec![place("10.0.0.5")])]));
        again.remove("n1").unwrap();
        again.remove("n1").unwrap();
        assert!(places.read().unwrap().is_empty());
        fs::write(dir.path().join("places.json"), "{").unwrap();
        assert!(places.read().unwrap_err().to_string().contains("places.json"));
    }
}
