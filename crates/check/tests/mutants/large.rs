//! A million operations are judged in seconds, and the time grows as the history does.

use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::time::{Duration, Instant};

use conclave_check::{Options, Property, Records, check};

const ROOMS: u64 = 16;
const SESSIONS: u64 = 64;

/// Generates the lines while they are read: all of them would take half a gigabyte.
struct Lines<F> {
    make: F,
    text: String,
    read: usize,
    step: u64,
}

impl<F: FnMut(u64, &mut String)> Read for Lines<F> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.read == self.text.len() {
            self.text.clear();
            self.read = 0;
            (self.make)(self.step, &mut self.text);
            self.step += 1;
        }
        let rest = &self.text.as_bytes()[self.read..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        Ok(count)
    }
}

/// One send per step, seen by a subscriber; then the final reads of two replicas.
fn make(operations: u64, step: u64, text: &mut String) {
    let at = step * 10;
    if step < operations {
        let (room, session) = (step % ROOMS, step / ROOMS % SESSIONS);
        let (seq, no) = (step / ROOMS + 1, step / (ROOMS * SESSIONS) + 1);
        let request = format!("\"session\":{session},\"room\":{room},\"no\":{no}");
        let event = format!("{request},\"what\":\"message\",\"body\":\"message {step} of {session}\"");
        let _ = writeln!(text, "{{\"kind\":\"invoke\",\"at\":{at},{event}}}");
        let _ = writeln!(text, "{{\"kind\":\"ok\",\"at\":{},{request},\"seq\":{seq}}}", at + 1);
        let _ = writeln!(
            text,
            "{{\"kind\":\"observed\",\"at\":{},\"reader\":\"tail\",\"stream\":0,\"seq\":{seq},{event}}}",
            at + 2
        );
        if step % 1_000 == 999 {
            let (begun, ended) = (at + 3, at + 4);
            let _ = writeln!(
                text,
                "{{\"kind\":\"read\",\"begun\":{begun},\"at\":{ended},\"room\":{room},\"last\":{seq},\"node\":\"n1\"}}"
            );
        }
        return;
    }
    let (replica, room) = ((step - operations) / ROOMS, (step - operations) % ROOMS);
    if replica == 2 {
        return;
    }
    let last = operations / ROOMS;
    let reader = format!("\"reader\":\"n{replica}\",\"room\":{room}");
    let _ = writeln!(text, "{{\"kind\":\"final_read\",\"at\":{at},{reader},\"after\":0,\"last\":{last}}}");
    for seq in 1..=last {
        let step = (seq - 1) * ROOMS + room;
        let (session, no) = (step / ROOMS % SESSIONS, step / (ROOMS * SESSIONS) + 1);
        let _ = writeln!(
            text,
            "{{\"kind\":\"final\",{reader},\"seq\":{seq},\"session\":{session},\"no\":{no},\"what\":\"message\",\"body\":\"message {step} of {session}\"}}"
        );
    }
}

fn lines(operations: u64) -> BufReader<impl Read> {
    let make = move |step, text: &mut String| make(operations, step, text);
    BufReader::with_capacity(1 << 20, Lines { make, text: String::new(), read: 0, step: 0 })
}

fn options(operations: u64) -> Options {
    let required = Property::ALL.into_iter().filter(|property| *property != Property::ResumeExact).collect();
    Options { required, acked_min: operations, ..Options::default() }
}

/// `cargo test --release -p conclave-check -- --ignored --nocapture a_million`
#[test]
#[ignore = "needs the release build and 600 MB of memory"]
fn a_million_operations_take_seconds() {
    const OPERATIONS: u64 = 1_000_000;
    let begun = Instant::now();
    let records = Records::read(lines(OPERATIONS)).unwrap();
    let read = begun.elapsed();
    let judged = Instant::now();
    let report = check(&records, &options(OPERATIONS));
    println!("made and read in {read:?}, judged in {:?}", judged.elapsed());
    assert!(report.passed(), "{report}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// The processor time of this thread, nanoseconds: unlike wall time, it is not affected by other processes.
fn used() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let used = stat.split_whitespace().next().and_then(|used| used.parse().ok());
    used.unwrap_or_else(|| {
        // Elsewhere than on Linux, wall time has to do.
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        u64::try_from(BEGUN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    })
}

/// The processor time to read and judge this many operations: the better of two tries.
fn cost(operations: u64) -> u64 {
    let once = |_| {
        let before = used();
        let report = check(&Records::read(lines(operations)).unwrap(), &options(operations));
        assert!(report.passed(), "{report}");
        used() - before
    };
    (0..2).map(once).min().unwrap()
}

/// The test above takes long; this one runs always. A history four times as long may take four times as long, and a little more
/// for sorting. A quadratic check would take sixteen times as long.
#[test]
fn the_time_grows_in_proportion_to_the_history() {
    let (small, large) = (cost(8_000), cost(32_000));
    println!("8,000 operations: {} ms, 32,000: {} ms", small / 1_000_000, large / 1_000_000);
    assert!(large < 8 * small, "four times as long a history took {} times as long", large / small.max(1));
}
