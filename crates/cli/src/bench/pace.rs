//! Generates due times of sends. It uses a separate thread, because the runtime's timers have a resolution of a
//! millisecond, which is too coarse.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Due times that may wait for late senders. With this many the generator is saturated, and further due times wait as
/// well.
const TICKS_MAX: usize = 65_536;
/// A wait ends this much early, and the rest is a busy loop on the clock.
const SPIN: Duration = Duration::from_micros(60);

/// Due times at a fixed rate from `begin` until `end`. The thread ends with the receiver.
pub(crate) fn ticks(rate: f64, begin: Instant, end: Instant) -> mpsc::Receiver<Instant> {
    let (sender, receiver) = mpsc::channel(TICKS_MAX);
    let interval = Duration::from_secs_f64(1.0 / rate.max(0.001));
    let pace = move || {
        let mut number = 0_u32;
        loop {
            let due = begin + interval.saturating_mul(number);
            if due >= end || sender.is_closed() {
                return;
            }
            wait_until(due);
            if sender.blocking_send(due).is_err() {
                return;
            }
            number = number.saturating_add(1);
        }
    };
    // If the thread cannot be started, the channel is closed and the run reports that nothing was sent.
    let _ = std::thread::Builder::new().name("bench-pace".to_owned()).spawn(pace);
    receiver
}

fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN {
            std::thread::park_timeout(left - SPIN);
        } else {
            std::hint::spin_loop();
        }
    }
}
