//! Threads as tasks: how one sleeps for memory and is woken.
//!
//! # Theory
//!
//! A task's `signal` counts its wakes and is a futex. A sleeper notes the count, looks at its condition, and asks the
//! kernel to sleep only while the count is still that; so a wake between the look and the sleep is not missed. The
//! waker's Release addition pairs with the sleeper's Acquire load.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use crate::task::Task;

std::thread_local! {
    static TASK: Task = const { Task::new() };
}

/// The calling thread's task.
pub(super) fn current<'a>() -> &'a Task {
    // SAFETY: a `Task` needs no drop, so the thread local is there until the thread's memory goes; who gets the
    // reference uses it in that thread, or while that thread sleeps in the service.
    TASK.with(|task| unsafe { &*ptr::from_ref(task) })
}

pub(super) fn sleep(ready: &mut dyn FnMut() -> bool, limit: Option<Duration>) {
    let task = current();
    let start = now();
    loop {
        let seen = task.signal.load(Ordering::Acquire);
        if ready() {
            return;
        }
        let left = match limit {
            None => None,
            Some(limit) => match limit.checked_sub(now().saturating_sub(start)) {
                Some(left) if !left.is_zero() => Some(left),
                _ => return,
            },
        };
        wait(&task.signal, seen, left);
    }
}

pub(super) fn wake(task: &Task) {
    task.signal.fetch_add(1, Ordering::Release);
    // SAFETY: the futex is a live word; the call only wakes.
    unsafe {
        libc::syscall(libc::SYS_futex, &raw const task.signal, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX)
    };
}

/// Time since the kernel's monotonic clock began.
pub(super) fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sleeps while `word` is `seen`, for at most `limit`. May return early.
fn wait(word: &AtomicU32, seen: u32, limit: Option<Duration>) {
    let timeout = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().cast_signed(),
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the futex is a live word and the timeout, if any, is on this stack.
    unsafe {
        libc::syscall(libc::SYS_futex, ptr::from_ref(word), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, seen, timeout)
    };
}
