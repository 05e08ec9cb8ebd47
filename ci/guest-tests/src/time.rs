//! The clock: it goes on, and agrees between CPUs.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use quarry_unikernel::{boot_duration, cpus, thread, time};

use crate::harness::Outcome;
use crate::team::{check_on_every_cpu, spawn};
use crate::{check, check_equal, tests};

fn ticks_never_go_back() -> Outcome {
    check_on_every_cpu(|_| {
        let mut last = time::ticks();
        for _ in 0..10_000 {
            let now = time::ticks();
            check!(now >= last, "{last} was followed by {now}");
            last = now;
        }
        Ok(())
    })
}

fn a_message_arrives_no_earlier_than_it_was_sent() -> Outcome {
    const MESSAGES: u64 = 100;
    /// Waits for a tick larger than the last, says its own; whether none came from the future.
    fn answer(board: &[AtomicU64; 2], side: usize) -> bool {
        let mut last = 0;
        (0..MESSAGES).all(|_| {
            // Acquire and Release: pair with each other, so that what was sent happened before what is read here.
            let sent = loop {
                let sent = board[side].load(Ordering::Acquire);
                if sent > last {
                    break sent;
                }
                thread::yield_now();
            };
            let now = time::ticks();
            last = sent;
            // One more than the tick, so that two messages in one tick differ.
            board[1 - side].store(now.max(sent) + 1, Ordering::Release);
            now + 2 * MESSAGES >= sent
        })
    }
    let first = cpus::current();
    for other in cpus::online().filter(|&other| other != first) {
        let board = Arc::new([const { AtomicU64::new(0) }; 2]);
        let across = Arc::clone(&board);
        let thread = spawn(other, move || answer(&across, 1));
        board[1].store(time::ticks(), Ordering::Release);
        let here = answer(&board, 0);
        check!(thread.join() && here, "a message between {first} and {other} came from the future");
    }
    Ok(())
}

fn uptime_grows_and_began_with_the_boot() -> Outcome {
    let before = time::uptime();
    check!(before >= boot_duration() && boot_duration() > Duration::ZERO, "up for {before:?} after a boot");
    time::spin_for(Duration::from_micros(100));
    let after = time::uptime();
    check!(after >= before + Duration::from_micros(100), "a wait of 100 us took from {before:?} to {after:?}");
    Ok(())
}

fn ticks_and_durations_agree() -> Outcome {
    let second = time::ticks_per_second();
    check_equal!(time::duration_of(second), Duration::from_secs(1), "duration of a second's ticks");
    check_equal!(time::ticks_in(Duration::from_secs(3)), 3 * second, "ticks of three seconds");
    for nanoseconds in [1, 999, 1_000_000, 123_456_789_012] {
        let duration = Duration::from_nanos(nanoseconds);
        let there_and_back = time::duration_of(time::ticks_in(duration));
        check!(
            there_and_back >= duration.saturating_sub(Duration::from_nanos(1)),
            "{duration:?} became {there_and_back:?}"
        );
    }
    Ok(())
}

tests! { "time":
    ticks_never_go_back,
    a_message_arrives_no_earlier_than_it_was_sent,
    uptime_grows_and_began_with_the_boot,
    ticks_and_durations_agree,
}
