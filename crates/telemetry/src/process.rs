//! Metrics of the process itself, under the names that Prometheus' client libraries agreed on. Only Linux has them.
//!
//! The collector of the crate `prometheus` is not used: it counts processor time in whole seconds, which at a scrape
//! every five seconds says nothing about a process that is nearly idle.

use std::time::Duration;

use prometheus::{Counter, IntGauge};

use crate::metrics::Maker;

/// Processor time, user and system, that all threads have used so far; zero where the kernel does not tell.
#[must_use]
pub fn cpu_time() -> Duration {
    Reading::take().map(|reading| reading.cpu).unwrap_or_default()
}

/// The highest limit on open files that [`raise_file_limit`] asks for. More than conclave needs, and programs that it
/// starts may walk through all possible descriptors.
const FILES_MAX: u64 = 1 << 20;
/// Files that are kept back from connections of others: databases, logs, sockets, and connections to others.
const OWN_FILES: usize = 256;

/// Raises the soft limit on open files to the hard one: shells and containers often start programs with a soft limit of
/// 1,024, which is meant for programs that use `select`. Where that is not possible the limit stays as it is.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.unwrap_or(FILES_MAX).min(FILES_MAX);
        if current.is_some_and(|current| current < wanted) {
            // Some systems do not allow as much as their hard limit says.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        }
    }
}

/// The limit on open files of this process; `None` if there is none.
#[must_use]
pub fn file_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
    #[cfg(not(unix))]
    {
        None
    }
}

/// The number of connections that others may make in all, under a limit on open files: the limit without what the process needs for itself, which is
/// 256, or half of a limit that is too low for that.
#[must_use]
pub fn files_for_connections(limit: Option<u64>) -> usize {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit - OWN_FILES.min(limit / 2)
}

/// The metrics of this process. They stay 0 on systems other than Linux.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    cpu: Counter,
    resident: IntGauge,
    virtual_size: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start_time: IntGauge,
}

impl ProcessMetrics {
    pub(crate) fn register(make: &Maker) -> Self {
        Self {
            cpu: make
                .put(Counter::new("process_cpu_seconds_total", "User and system processor time, seconds.")),
            resident: make.gauge("process_resident_memory_bytes", "Resident memory, bytes."),
            virtual_size: make.gauge("process_virtual_memory_bytes", "Virtual memory, bytes."),
            open_fds: make.gauge("process_open_fds", "Open file descriptors."),
            max_fds: make.gauge("process_max_fds", "Limit on open file descriptors."),
            threads: make.gauge("process_threads", "Threads of the operating system."),
            start_time: make.gauge("process_start_time_seconds", "Start of the process, seconds since 1970."),
        }
    }

    /// Reads all values from the kernel. A value that cannot be read stays as it was.
    pub(crate) fn refresh(&self) {
        let Some(reading) = Reading::take() else { return };
        // Concurrent scrapes may get here in another order than they have read. A counter must not fall.
        self.cpu.inc_by((reading.cpu.as_secs_f64() - self.cpu.get()).max(0.0));
        for (gauge, value) in [
            (&self.resident, Some(reading.resident_bytes)),
            (&self.virtual_size, Some(reading.virtual_bytes)),
            (&self.open_fds, reading.open_fds),
            (&self.max_fds, reading.max_fds),
            (&self.threads, Some(reading.threads)),
            // The kernel derives the moment of its own start from the clock, which may be set: a process starts once.
            (&self.start_time, reading.start_seconds.filter(|_| self.start_time.get() == 0)),
        ] {
            if let Some(value) = value {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}

/// The kernel's numbers at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    cpu: Duration,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_fds: Option<u64>,
    /// None if there is no limit.
    max_fds: Option<u64>,
    start_seconds: Option<u64>,
}

impl Reading {
    #[cfg(target_os = "linux")]
    fn take() -> Option<Self> {
        use procfs::process::{LimitValue, Process};

        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = procfs::ticks_per_second();
        let max_fds = process.limits().ok().map(|limits| limits.max_open_files.soft_limit);
        Some(Self {
            cpu: Duration::from_millis((stat.utime + stat.stime).saturating_mul(1_000) / ticks),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            open_fds: process.fd_count().ok().map(|count| count as u64),
            max_fds: max_fds.and_then(|limit| match limit {
                LimitValue::Value(most) => Some(most),
                LimitValue::Unlimited => None,
            }),
            start_seconds: procfs::boot_time_secs().ok().map(|boot| boot + stat.starttime / ticks),
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn take() -> Option<Self> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn every_process_metric_can_be_read() {
        let reading = Reading::take().unwrap();
        assert!(reading.resident_bytes > 0 && reading.virtual_bytes > reading.resident_bytes, "{reading:?}");
        assert!(reading.threads > 0 && reading.open_fds > Some(0), "{reading:?}");
        // 2020-01-01: boot time plus offset, not the offset alone.
        assert!(reading.start_seconds > Some(1_577_836_800), "{reading:?}");
    }

    #[test]
    fn processor_time_counts_fractions_of_a_second_and_never_goes_back() {
        let metrics = ProcessMetrics::register(&Maker::new());
        let mut before = cpu_time();
        while before.subsec_millis() == 0 {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
            before = cpu_time();
        }
        metrics.refresh();
        assert!(metrics.cpu.get() >= before.as_secs_f64());
        assert!(cpu_time() >= before);
    }
}
