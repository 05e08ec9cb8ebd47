//! [`Scheduler`]: a CPU's run queue, its sleepers, and the switch between its threads. The theory is in the parent
//! module.

use alloc::sync::Arc;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering;

use quarry_topology::CpuId;

use super::Thread;
use super::queue::Queue;
use super::switch::switch;
use crate::cpu_local::{self, CpuLocal};
use crate::sync::InterruptLock;
use crate::{apic, arch, cpus, interrupts, time};

/// A CPU's part of the scheduler.
pub(crate) struct Scheduler {
    ready: InterruptLock<Queue>,
    current: Cell<*const Thread>,
    idle: Cell<*const Thread>,
    /// Threads to be woken at a time, the soonest first, linked.
    sleepers: Cell<*const Thread>,
    /// A thread that has ended and whose stack is still in use until the next thread runs.
    ended: Cell<*const Thread>,
}

impl Scheduler {
    pub(crate) const fn new() -> Self {
        Self {
            ready: InterruptLock::new(Queue::new()),
            current: Cell::new(ptr::null()),
            idle: Cell::new(ptr::null()),
            sleepers: Cell::new(ptr::null()),
            ended: Cell::new(ptr::null()),
        }
    }

    /// Makes what runs on the calling CPU now its idle thread.
    pub(crate) fn start_idle_thread(&self, cpu: CpuId) {
        let thread = Arc::into_raw(Arc::new(Thread::new("idle", cpu, None, None)));
        self.idle.set(thread);
        self.current.set(thread);
    }

    /// The running thread; `None` before there are any.
    pub(super) fn current(&self) -> Option<&Thread> {
        // SAFETY: the running thread lives.
        unsafe { self.current.get().as_ref() }
    }

    /// Goes on with another thread, and returns when the running one's turn comes again.
    fn switch_to(&self, next: *const Thread) {
        let previous = self.current.get();
        if next == previous {
            return;
        }
        self.current.set(next);
        // SAFETY: both live; `next` does not run, for it was in this CPU's run queue or is its idle thread, and nobody
        // but this CPU looks at the stack pointers.
        unsafe { switch((*previous).stack_pointer.get(), *(*next).stack_pointer.get()) };
        reap();
    }

    /// Wakes the sleepers whose time has come and sets the timer for the next. With interrupts off.
    fn wake_sleepers(&self) {
        let now = time::ticks();
        // SAFETY: sleepers live.
        while let Some(sleeper) = unsafe { self.sleepers.get().as_ref() } {
            if sleeper.wake_at.get() > now {
                apic::arm_timer(Some(sleeper.wake_at.get()));
                return;
            }
            self.sleepers.set(sleeper.next.get());
            // SAFETY: it is in no queue any more.
            unsafe { wake(sleeper) };
        }
        apic::arm_timer(None);
    }

    /// Puts a thread among the sleepers, in order. With interrupts off.
    fn add_sleeper(&self, thread: &Thread) {
        let mut link = &self.sleepers;
        // SAFETY: sleepers live.
        while let Some(sleeper) = unsafe { link.get().as_ref() } {
            if sleeper.wake_at.get() > thread.wake_at.get() {
                break;
            }
            link = &sleeper.next;
        }
        thread.next.set(link.get());
        link.set(thread);
    }
}

/// Registers the handlers of the timer and of wakes. Once.
pub(crate) fn initialise() {
    let timer: interrupts::Handler = |_| cpu_local::current().scheduler.wake_sleepers();
    // A wake has nothing to do: the CPU is awake, and looks at its run queue.
    let woken: interrupts::Handler = |_| {};
    interrupts::set_handler(apic::TIMER_VECTOR, timer).expect("the vector is the scheduler's");
    interrupts::set_handler(apic::WAKE_VECTOR, woken).expect("the vector is the scheduler's");
}

/// Makes a thread ready.
///
/// # Safety
///
/// It is in no queue, is not ready, and lives until it has run.
pub(super) unsafe fn wake(thread: *const Thread) {
    // SAFETY: the caller's promise.
    let cpu = unsafe { (*thread).cpu };
    let area = cpus::area(cpu).expect("threads are made for CPUs that run");
    let was_empty = {
        let mut ready = area.scheduler.ready.lock();
        let was_empty = ready.is_empty();
        // SAFETY: the caller's promise.
        unsafe { ready.push(thread) };
        was_empty
    };
    if was_empty && area.id != cpu_local::current().id {
        apic::send(area.apic_id, apic::WAKE_VECTOR);
    }
}

/// The running thread, which is about to wait.
pub(super) fn current_for_waiting() -> *const Thread {
    let scheduler = may_wait();
    scheduler.current.get()
}

/// Lets another thread run. The running one has been put into a queue, or is done.
pub(super) fn block() {
    let scheduler = may_wait();
    let next = scheduler.ready.lock().pop();
    scheduler.switch_to(next.unwrap_or(scheduler.idle.get()));
}

pub(super) fn yield_now() {
    let scheduler = may_wait();
    let next = {
        let mut ready = scheduler.ready.lock();
        let Some(next) = ready.pop() else { return };
        // SAFETY: the running thread is in no queue; it lives.
        unsafe { ready.push(scheduler.current.get()) };
        next
    };
    scheduler.switch_to(next);
}

pub(super) fn sleep_until(deadline: u64) {
    let scheduler = may_wait();
    interrupts::without_interrupts(|| {
        let thread = scheduler.current().expect("whoever may wait is a thread");
        thread.wake_at.set(deadline);
        scheduler.add_sleeper(thread);
        scheduler.wake_sleepers();
    });
    block();
}

/// The scheduler of this CPU, once it is sure that the caller may wait.
fn may_wait() -> &'static Scheduler {
    let cpu: &'static CpuLocal = cpu_local::current();
    let scheduler = &cpu.scheduler;
    assert!(!cpu.in_interrupt.get(), "an interrupt handler cannot wait: wake a thread that does");
    assert!(scheduler.current.get() != scheduler.idle.get(), "the idle thread of {} cannot wait", cpu.id);
    assert!(arch::interrupts_enabled(), "a thread that waits with interrupts off could never be woken");
    scheduler
}

/// Runs ready threads for ever, and halts while there are none. Called once on each CPU, at the end of its start.
pub(crate) fn idle() -> ! {
    let scheduler = &cpu_local::current().scheduler;
    loop {
        arch::disable_interrupts();
        let next = scheduler.ready.lock().pop();
        match next {
            None => arch::enable_interrupts_and_halt(),
            Some(next) => {
                arch::enable_interrupts();
                scheduler.switch_to(next);
            }
        }
    }
}

/// Where a new thread begins.
pub(super) extern "sysv64" fn begin() -> ! {
    reap();
    let thread = cpu_local::current().scheduler.current().expect("a thread that begins is the running one");
    let body = thread.body.take().expect("a thread begins once");
    body();
    let scheduler = &cpu_local::current().scheduler;
    scheduler.ended.set(thread);
    block();
    unreachable!("a thread that has ended is in no queue")
}

/// Clears up behind the thread that ended before this one, if any.
fn reap() {
    let ended = cpu_local::current().scheduler.ended.replace(ptr::null());
    if ended.is_null() {
        return;
    }
    // SAFETY: this is the reference `spawn_with_stack` left to the thread, which has left its stack for good.
    let thread = unsafe { Arc::from_raw(ended) };
    drop(thread.stack.take());
    // Release: pairs with the Acquire of whoever joins, who then sees the result.
    thread.ended.store(true, Ordering::Release);
    thread.end.wake_all();
}
