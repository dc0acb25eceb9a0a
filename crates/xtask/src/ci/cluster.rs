//! A cluster of server processes, as `conclave up` starts it.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::site::{Process, Site, is_gone, read, send_signal};

/// The ports that are searched for free ones: below those that the system gives to outgoing connections, and above those
/// that the tests use.
const PORTS: std::ops::Range<u16> = 26_000..32_000;
/// Ports of one cluster: three servers with ten each, and the name server at 53 to 55.
const PORTS_EACH: u16 = 60;
/// Starts of a cluster whose ports another process took in the meantime.
const TRIES: usize = 3;

/// A running cluster of three servers. It stops when this is dropped.
pub(super) struct Cluster<'a> {
    site: &'a Site<'a>,
    up: Process,
    pub(super) dir: PathBuf,
    /// The list of processes that were started first, as `up --json` prints it.
    ready: Value,
}

impl<'a> Cluster<'a> {
    /// Starts `conclave up` with these further arguments and environment, and waits until the cluster is ready. Elections
    /// are as slow as for nodes far from each other: a bug is to be found, not a machine with little time.
    pub(super) fn start(
        site: &'a Site<'a>,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let dir = site.dir.join("cluster");
        let mut tries = 0;
        loop {
            tries += 1;
            let base_port = free_base_port()?;
            let mut command = site.program("conclave")?;
            command.args(["up", "--open", "--json", "--exit-with-stdin", "--dir"]).arg(&dir);
            command.args(["--base-port", &base_port.to_string()]).args(arguments);
            command.env("CONCLAVE_TIMING", "wan").envs(environment.iter().copied()).stdin(Stdio::piped());
            let up = site.start("up", &mut command)?;
            let mut cluster = Self { site, up, dir: dir.clone(), ready: Value::Null };
            let mut ready = String::new();
            let started = site.until("a cluster that is ready", || {
                ready = read(&cluster.up.out)?;
                if !ready.ends_with('\n') {
                    cluster.up.still_runs()?;
                }
                Ok(ready.ends_with('\n'))
            });
            if let Err(error) = started {
                if tries < TRIES && error.to_string().contains(" is in use") {
                    continue;
                }
                return Err(error);
            }
            cluster.ready = serde_json::from_str(ready.trim()).context("the output of `conclave up`")?;
            let count = cluster.pids()?.len();
            if count != 3 {
                bail!("{count} servers were started instead of 3: {ready}");
            }
            return Ok(cluster);
        }
    }

    fn nodes(&self) -> &[Value] {
        self.ready["nodes"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The servers' process ids, as they were started first.
    pub(super) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        self.nodes().iter().map(|node| pid_of(node).context("a server without a process id")).collect()
    }

    /// The process id of a server, as it was started first.
    pub(super) fn first_pid_of(&self, name: &str) -> anyhow::Result<u32> {
        let node = self.nodes().iter().find(|node| node["name"] == name);
        node.and_then(pid_of).with_context(|| format!("no server is called {name}: {}", self.ready))
    }

    /// The process id of a server now, from the list that the chaos controller uses itself; `None` while it is down.
    pub(super) fn pid_now(&self, name: &str) -> Option<u32> {
        let list: Value = serde_json::from_str(&read(&self.dir.join("processes.json")).ok()?).ok()?;
        list["children"].as_array()?.iter().find(|child| child["name"] == name).and_then(pid_of)
    }

    /// The client addresses of the servers, separated by commas.
    pub(super) fn servers(&self) -> String {
        let address = |node: &Value| node["client"].as_str().map(str::to_owned);
        self.nodes().iter().filter_map(address).collect::<Vec<_>>().join(",")
    }

    /// The port of the name server.
    pub(super) fn dns_port(&self) -> anyhow::Result<u16> {
        let address =
            self.ready["resolver"]["dns"].as_str().and_then(|dns| dns.rsplit(':').next()?.parse().ok());
        address.with_context(|| format!("the cluster has no name server: {}", self.ready))
    }

    /// A client command for this cluster.
    pub(super) fn client(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.site.program("conclave")?;
        command.args(arguments).env("CONCLAVE_SERVERS", self.servers()).env("CONCLAVE_USER", "ci");
        Ok(command)
    }

    /// Waits until `conclave status` finds nothing wrong.
    pub(super) fn until_healthy(&self) -> anyhow::Result<()> {
        self.site.until("a healthy cluster", || {
            Ok(self.site.run(&mut self.client(&["status"])?, "")?.code == Some(0))
        })
    }

    /// Stops the cluster as a person would. Fails if it does not stop by itself, or if anything of it is left.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let mut pids = self.pids()?;
        pids.extend(["node1", "node2", "node3", "resolver"].iter().filter_map(|name| self.pid_now(name)));
        self.up.signal(Signal::TERM)?;
        let status = self.site.end_of(&mut self.up)?;
        if !status.success() {
            bail!("`conclave up` ended with {status}");
        }
        if let Some(pid) = pids.into_iter().find(|pid| !is_gone(*pid)) {
            bail!("process {pid} outlived its cluster");
        }
        for node in self.nodes() {
            let address = node["client"].as_str().unwrap_or_default();
            self.site
                .until(&format!("a closed port {address}"), || Ok(TcpStream::connect(address).is_err()))?;
        }
        Ok(())
    }
}

fn pid_of(process: &Value) -> Option<u32> {
    u32::try_from(process["pid"].as_u64()?).ok()
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // A frozen server only ends when it goes on. Servers end with `up`, which ends by the signal, or else when the
        // process is dropped and killed. After `stop`, all of this does nothing.
        if self.up.still_runs().is_err() {
            return;
        }
        for name in ["node1", "node2", "node3"] {
            if let Some(pid) = self.pid_now(name) {
                let _ = send_signal(pid, Signal::CONT);
            }
        }
        let _ = self.up.signal(Signal::TERM);
        let _ = self.site.until("the end of a cluster", || Ok(self.up.still_runs().is_err()));
    }
}

/// A port with enough free ports behind it for a cluster. No two calls of a process return the same one.
fn free_base_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let places = (PORTS.end - PORTS.start) / PORTS_EACH;
    // Other runs begin elsewhere.
    let first = u16::try_from(std::process::id() % u32::from(places))?;
    for _ in 0..places {
        let place = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % places;
        let base = PORTS.start + place * PORTS_EACH;
        let free = |port: u16| {
            let address = (Ipv4Addr::LOCALHOST, port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        };
        if (base..base + PORTS_EACH).all(free) {
            return Ok(base);
        }
    }
    bail!("no {PORTS_EACH} ports in a row are free in {PORTS:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_never_get_the_same_ports() {
        let bases = [0; 10].map(|_| free_base_port().unwrap());
        for (at, base) in bases.iter().enumerate() {
            assert!(PORTS.contains(base) && base + PORTS_EACH <= PORTS.end, "{base}");
            assert!(bases[..at].iter().all(|other| other.abs_diff(*base) >= PORTS_EACH), "{bases:?}");
        }
    }
}
