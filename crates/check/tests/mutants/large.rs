//! A million operations are judged in seconds.

use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::time::{Duration, Instant};

use conclave_check::{Options, Property, Records, check};

const OPERATIONS: u64 = 1_000_000;
const ROOMS: u64 = 16;
const SESSIONS: u64 = 64;

/// Makes the lines as they are read: all of them would fill half a gigabyte.
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

/// One send for each step, seen by a subscriber; then what two replicas have of each room.
fn make(step: u64, text: &mut String) {
    let at = step * 10;
    if step < OPERATIONS {
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
    let (replica, room) = ((step - OPERATIONS) / ROOMS, (step - OPERATIONS) % ROOMS);
    if replica == 2 {
        return;
    }
    let last = OPERATIONS / ROOMS;
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

/// `cargo test --release -p conclave-check -- --ignored --nocapture a_million`
#[test]
#[ignore = "needs the release build and 600 MB of memory"]
fn a_million_operations_take_seconds() {
    let begun = Instant::now();
    let lines = Lines { make, text: String::new(), read: 0, step: 0 };
    let records = Records::read(BufReader::with_capacity(1 << 20, lines)).unwrap();
    let read = begun.elapsed();
    let judged = Instant::now();
    let required = Property::ALL.into_iter().filter(|property| *property != Property::ResumeExact).collect();
    let report = check(&records, &Options { required, acked_min: OPERATIONS, ..Options::default() });
    println!("made and read in {read:?}, judged in {:?}", judged.elapsed());
    assert!(report.passed(), "{report}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
