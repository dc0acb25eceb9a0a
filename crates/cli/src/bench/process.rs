//! The servers' processes on this machine: which one listens at a port, and how much memory and CPU time it uses. Linux
//! only; on other systems, and for processes of other users, nothing is found.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The process that listens at a TCP port of this machine.
pub(crate) fn listening_at(address: &str) -> Option<u32> {
    let address: SocketAddr = address.parse().ok()?;
    if !address.ip().is_loopback() {
        return None;
    }
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listeners(&table, address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let is_listener = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| {
            fs::read_link(file.path())
                .is_ok_and(|to| sockets.iter().any(|socket| to.as_os_str() == socket.as_str()))
        })
    };
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_listener)
}

/// Inodes of listening sockets at a port.
fn listeners(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let at = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (at == port && state == LISTEN).then_some(inode)
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        bail!("{pid} is not a process")
    };
    kill_process(process, signal).with_context(|| format!("cannot signal the process {pid}"))
}

/// Memory in use, bytes.
pub(crate) fn memory(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("look at process {pid}"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the process has no memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("read the process's memory")?;
    Ok(kib * 1024)
}

/// CPU time used, seconds.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("look at process {pid}"))?;
    // The second field is a name in parentheses that may contain any character.
    let (_, fields) = stat.rsplit_once(')').context("read the process's times")?;
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<u32>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else { bail!("read the process's times") };
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    Ok(f64::from(user + system) / f64::from(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(listening_at(&address), Some(std::process::id()));
        assert!(memory(std::process::id()).unwrap() > 100_000);
        assert!(cpu_seconds(std::process::id()).unwrap() >= 0.0);
        assert_eq!(listening_at("192.0.2.1:7400"), None);
    }
}
