//! The processes of `conclave up`.
//!
//! `up` keeps a list of its children in its directory (`processes.json`) and restarts children that die. Signals need only the
//! operating system's permission; faults inside a server, and exchanging its data dir, need `conclave up --allow-faults`.

mod copies;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conclave_client::CaId;
use futures::future::{BoxFuture, try_join_all};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::time::Instant;

use crate::backend::inside::InForce;
use crate::backend::{Backend, BackendError, Kind, Target, admin_token, cannot_exchange_data_dirs};
use crate::fault::{Fault, Means};
use crate::journal::Applied;

/// The file with the list of children.
pub const PROCESSES: &str = "processes.json";
/// The file that a running `up` holds locked, in the same directory.
const LOCK: &str = "up.lock";
/// The file with the admin token, in the same directory.
const ADMIN_TOKEN: &str = "admin-token";
/// Timeout for a child to run again; `up` restarts a dead child after three seconds.
const BACK_DEADLINE: Duration = Duration::from_secs(20);
/// Interval between two reads of the list while a child is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The list as `up` writes it.
#[derive(Clone, Debug, Deserialize)]
struct Processes {
    /// Whether fault injection is enabled in the servers.
    #[serde(default)]
    allow_faults: bool,
    /// Whether `up` restarts dead children.
    restarts: bool,
    /// The id of the cluster's certificate authority, if its servers and name servers speak TLS.
    #[serde(default)]
    authority: Option<String>,
    children: Vec<Child>,
}

#[derive(Clone, Debug, Deserialize)]
struct Child {
    name: String,
    kind: Kind,
    /// Absent while the child is dead.
    pid: Option<i32>,
    /// `host:port` of a server's client API, or where a name server takes faults.
    #[serde(default)]
    client: String,
    /// Of a name server: the address by which clients find the cluster.
    #[serde(default)]
    zone: Option<String>,
}

/// The children of one `conclave up`.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    /// Active faults inside servers.
    inside: InForce,
}

impl Local {
    /// Opens the cluster that `conclave up` runs in this directory.
    ///
    /// # Errors
    /// If the list of processes cannot be read.
    pub fn open(dir: &Path) -> Result<Self, BackendError> {
        let file = dir.join(ADMIN_TOKEN);
        // An older version made none.
        let token = file.exists().then(|| admin_token(&file));
        let local = Self { path: dir.join(PROCESSES), inside: InForce::new(token) };
        local.read().map(|_| local)
    }

    /// The default directory of `conclave up`.
    ///
    /// # Errors
    /// If the environment does not name a home directory.
    pub fn default_dir() -> Result<PathBuf, BackendError> {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let data =
            data.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
        let data = data.ok_or_else(|| BackendError::Failed {
            what: "find the directory of conclave up".to_owned(),
            why: "neither XDG_DATA_HOME nor HOME is set; use --dir".to_owned(),
        })?;
        Ok(data.join("conclave/up"))
    }

    fn read(&self) -> Result<Processes, BackendError> {
        let failed = |why: String| BackendError::Failed {
            what: format!("find the processes of conclave up in {}", self.path.display()),
            why,
        };
        let text = fs::read_to_string(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                failed("the file does not exist; start `conclave up`, or use its --dir".to_owned())
            }
            _ => failed(error.to_string()),
        })?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// Whether the `up` that wrote the list still runs, by its lock.
    fn is_up(&self) -> bool {
        let lock = fs::File::open(self.path.with_file_name(LOCK));
        let Ok(lock) = lock else { return false };
        let is_up = matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        // A process that is being started may hold the file open, and must not keep the lock of the next `up`.
        let _ = lock.unlock();
        is_up
    }

    fn child(&self, name: &str) -> Result<Child, BackendError> {
        let found = self.read()?.children.into_iter().find(|child| child.name == name);
        found.ok_or_else(|| BackendError::Unknown(name.to_owned()))
    }

    /// Sends the child a signal, if it is alive.
    fn signal(&self, name: &str, signal: Signal) -> Result<(), BackendError> {
        let pid = match self.child(name) {
            Ok(child) => child.pid.and_then(Pid::from_raw),
            // A child that no longer exists needs no healing.
            Err(BackendError::Unknown(_)) if signal == Signal::CONT => None,
            Err(error) => return Err(error),
        };
        let Some(pid) = pid else { return Ok(()) };
        if !self.is_up() {
            // The list was left by a `conclave up` that has ended: another process may have the pid by now.
            return Err(BackendError::Failed {
                what: format!("signal {name}"),
                why: format!("no conclave up runs in {}", self.path.parent().unwrap_or(&self.path).display()),
            });
        }
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(BackendError::Failed { what: format!("signal {name}"), why: error.to_string() })
            }
        }
    }

    /// Waits until the child runs, and returns its process id.
    async fn wait_until_running(&self, name: &str) -> Result<i32, BackendError> {
        let deadline = Instant::now() + BACK_DEADLINE;
        loop {
            // `up` has not noticed yet that a zombie has died.
            let runs = |pid: &i32| !matches!(state(*pid), None | Some('Z' | 'X'));
            if let Some(pid) = self.child(name)?.pid.filter(runs) {
                return Ok(pid);
            }
            if Instant::now() > deadline || !self.read()?.restarts {
                let why = "conclave up has not restarted it (was it started with --no-restart?)";
                return Err(BackendError::Failed { what: format!("wait for {name}"), why: why.to_owned() });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends the children their active faults. Returns the names of those that did not confirm.
    async fn send_faults(&self) -> Result<Vec<String>, BackendError> {
        self.inside.send_faults(&self.list()?).await
    }

    /// The children.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub fn list(&self) -> Result<Vec<Target>, BackendError> {
        let processes = self.read()?;
        let authority = processes.authority.as_deref().map(str::parse::<CaId>).transpose();
        let authority = authority.map_err(|error| BackendError::Failed {
            what: format!("find the cluster of conclave up in {}", self.path.display()),
            why: error.to_string(),
        })?;
        let target =
            |child: Child| Target { name: child.name, kind: child.kind, client: child.client, authority };
        Ok(processes.children.into_iter().map(target).collect())
    }

    fn check_allows_faults(&self) -> Result<(), BackendError> {
        if self.read()?.allow_faults {
            return Ok(());
        }
        Err(BackendError::NotAllowed {
            target: "this cluster".to_owned(),
            advice: "start it with conclave up --allow-faults".to_owned(),
        })
    }

    fn is_at_resolver(&self, fault: &Applied) -> Result<bool, BackendError> {
        let is_resolver =
            |target: &Target| target.kind == Kind::Resolver && fault.nodes.contains(&target.name);
        Ok(self.list()?.iter().any(is_resolver))
    }

    async fn apply_to(&self, fault: &Applied) -> Result<(), BackendError> {
        match &fault.fault {
            Fault::Kill => self.each(fault, Signal::KILL),
            Fault::Restart => self.each(fault, Signal::TERM),
            Fault::Pause => self.each(fault, Signal::STOP),
            Fault::PowerCut { torn } => {
                let targets = self.list()?;
                // All at the same moment: a server that lives a second longer could sync what the others lose.
                let hit = targets.iter().filter(|target| fault.nodes.contains(&target.name));
                let cuts = hit.map(|target| self.inside.cut_power(target, *torn, fault.id));
                try_join_all(cuts).await.map(drop)
            }
            copied @ (Fault::CopyDataDir | Fault::RestoreOldCopy) => {
                self.check_allows_faults()?;
                if self.is_at_resolver(fault)? {
                    return Err(cannot_exchange_data_dirs(copied, "a resolver of conclave up"));
                }
                for name in &fault.nodes {
                    if *copied == Fault::CopyDataDir {
                        self.copy_data_dir(name).await?;
                    } else {
                        self.restore_old_copy(name).await?;
                    }
                }
                Ok(())
            }
            _ => {
                self.check_allows_faults()?;
                if fault.fault == Fault::Isolate && self.is_at_resolver(fault)? {
                    return Err(BackendError::Unable {
                        fault: fault.fault.to_string(),
                        what: "a resolver of conclave up",
                        advice: "its connections cannot be cut; use kill or pause instead",
                    });
                }
                self.inside.add(fault);
                self.send_faults().await.map(drop)
            }
        }
    }

    async fn heal_fault(&self, fault: &Applied) -> Result<(), BackendError> {
        match &fault.fault {
            Fault::Kill | Fault::Restart | Fault::PowerCut { .. } => {
                for name in &fault.nodes {
                    self.wait_until_running(name).await?;
                }
                Ok(())
            }
            Fault::CopyDataDir => {
                for name in &fault.nodes {
                    self.remove_copy(name).await?;
                }
                Ok(())
            }
            Fault::RestoreOldCopy => {
                for name in &fault.nodes {
                    self.put_back(name).await?;
                    self.wait_until_running(name).await?;
                }
                Ok(())
            }
            Fault::Pause => {
                self.each(fault, Signal::CONT)?;
                // The server may have missed that other faults ended while it was frozen.
                if self.read()?.allow_faults { self.heal_inside(fault).await } else { Ok(()) }
            }
            _ => self.heal_inside(fault).await,
        }
    }

    async fn heal_inside(&self, fault: &Applied) -> Result<(), BackendError> {
        let excused = |name: &str| match self.child(name) {
            Ok(child) => child.pid.is_none_or(|pid| matches!(state(pid), None | Some('T' | 'Z'))),
            // There is no such child any more.
            Err(BackendError::Unknown(_)) => true,
            Err(_) => false,
        };
        self.inside.heal(fault, &self.list()?, excused).await
    }

    fn each(&self, fault: &Applied, signal: Signal) -> Result<(), BackendError> {
        fault.nodes.iter().try_for_each(|name| self.signal(name, signal))
    }
}

/// The kernel's letter for the state of a process (`T` is stopped); `None` if there is no such process.
fn state(pid: i32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}/stat")))
}

/// The same of a process or a thread, from its `stat`.
fn state_in(stat: &Path) -> Option<char> {
    let stat = fs::read_to_string(stat).ok()?;
    // The state follows the name, which is in parentheses and may contain parentheses itself.
    stat.rsplit_once(") ")?.1.chars().next()
}

impl Backend for Local {
    fn name(&self) -> &'static str {
        "local processes"
    }

    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>> {
        Box::pin(async {
            let inside = self.read()?.allow_faults;
            let more = Means::INSIDE.into_iter().chain([Means::Copies, Means::Resolver]).filter(|_| inside);
            Ok(more.chain([Means::Process, Means::Freeze]).collect())
        })
    }

    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>> {
        Box::pin(async { self.list() })
    }

    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.apply_to(fault))
    }

    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.heal_fault(fault))
    }

    fn reapply(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        let nothing = self.inside.all().is_empty();
        Box::pin(async move { if nothing { Ok(()) } else { self.send_faults().await.map(drop) } })
    }

    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(async { Ok(self.send_faults().await?.is_empty()) })
    }

    fn zone(&self) -> Option<String> {
        self.read().ok()?.children.into_iter().find_map(|child| child.zone)
    }
}

#[cfg(test)]
mod tests;
