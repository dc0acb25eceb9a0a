//! What the kernel knows of this process. Only Linux tells.

use std::time::Duration;

/// User and system time of all threads so far; zero where the kernel does not tell.
#[must_use]
pub fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // USER_HZ is 100 on every Linux that Rust supports.
    Duration::from_millis(ticks(&stat).saturating_mul(10))
}

/// Behind the command's name in brackets come the numbered fields from the third on; the times are 14 and 15.
fn ticks(stat: &str) -> u64 {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// How much there is of this process; zeros where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u64,
}

pub(crate) fn memory() -> Memory {
    parse_status(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// Lines of a name, a colon, a number and sometimes `kB`.
fn parse_status(status: &str) -> Memory {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    Memory { resident_bytes: field("VmRSS:").saturating_mul(1024), threads: field("Threads:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 9 0 0 0 31 11 0 0 20 0 7 0 100";
        assert_eq!(ticks(&format!("42 (a) b ) (c) {rest}")), 42);
        assert_eq!(ticks(""), 0);
        assert_eq!(ticks("1 (x) S"), 0);
    }

    #[test]
    fn memory_and_threads_are_found_by_name() {
        let status = "Name:\tThreads: 9\nVmHWM:\t  900 kB\nVmRSS:\t  812 kB\nThreads:\t7\n";
        assert_eq!(parse_status(status), Memory { resident_bytes: 812 * 1024, threads: 7 });
        assert_eq!(parse_status(""), Memory::default());
    }
}
