//! What the kernel knows of this process. Only Linux tells.

use std::time::Duration;

/// User and system time of all threads so far; zero where the kernel does not tell.
pub(crate) fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // USER_HZ is 100 on every Linux that Rust supports.
    Duration::from_millis(ticks(&stat).saturating_mul(10))
}

/// Behind the command's name in brackets come the numbered fields from the third on; the times are 14 and 15.
fn ticks(stat: &str) -> u64 {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
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
}
