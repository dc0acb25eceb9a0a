//! Tells a Prometheus where the metrics of this controller are, for as long as they are there.
//!
//! The file is one of Prometheus' `file_sd_configs`. A controller that ends removes it, so no target is down where none runs.
//! The target of a controller that was killed is down until the next controller of the cluster has begun.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// Where the file is, and what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeFile {
    /// The file.
    pub path: PathBuf,
    /// `host:port` at which Prometheus reaches the metrics.
    pub target: String,
}

impl ScrapeFile {
    /// Removes the file that a controller has left behind.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the file, which is removed when the returned value is dropped.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(self) -> io::Result<Announced> {
        let content = serde_json::json!([{ "targets": [self.target] }]).to_string();
        // Prometheus reads it as soon as it is there, so it is complete then. Its name must not end as Prometheus' pattern does.
        let temporary = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        drop(file);
        fs::rename(&temporary, &self.path)?;
        Ok(Announced(self))
    }
}

/// A written file.
#[derive(Debug)]
pub struct Announced(ScrapeFile);

impl Drop for Announced {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            tracing::warn!(%error, path = %self.0.path.display(), "scrape file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_for_as_long_as_the_metrics_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = ScrapeFile { path: dir.path().join("chaos.json"), target: "10.83.0.252:9464".to_owned() };
        file.remove().unwrap();
        let announced = file.clone().write().unwrap();
        assert_eq!(fs::read_to_string(&file.path).unwrap(), r#"[{"targets":["10.83.0.252:9464"]}]"#);
        drop(announced);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");

        std::mem::forget(file.clone().write().unwrap());
        file.remove().unwrap();
        assert!(!file.path.exists());
        let nowhere = ScrapeFile { path: dir.path().join("nowhere/chaos.json"), ..file };
        assert!(nowhere.write().is_err());
    }
}
