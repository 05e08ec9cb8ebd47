//! [`Scheduler`]: a CPU's run queue, its sleepers, and the switch between its threads. The theory is in the parent
//! module.

use alloc::sync::Arc;
use core::cell::Cell;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use quarry_memory::Task;

use quarry_topology::CpuId;

use super::Thread;
use super::io;
use super::queue::Queue;
use super::switch::switch;
use crate::cpu_local::{self, CpuLocal};
use crate::memory::service;
use crate::sync::InterruptLock;
use crate::{apic, arch, cpus, interrupts, time};

/// A CPU's part of the scheduler.
pub(crate) struct Scheduler {
    ready: InterruptLock<Queue>,
    current: Cell<*const Thread>,
    idle: Cell<*const Thread>,
    /// Threads to be woken at a time, the soonest first, linked.
    sleepers: Cell<*const Thread>,
    /// Whether the CPU has nothing to run, and halts or zeroes pages: it changes nothing of its own then but in handlers.
    idles: AtomicBool,
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
            idles: AtomicBool::new(false),
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

    /// Wakes the sleepers whose time has come, and the parked ones that were woken, and sets the timer for the next.
    /// With interrupts off.
    fn wake_sleepers(&self) {
        let now = time::ticks();
        let mut link = &self.sleepers;
        // SAFETY: sleepers live.
        while let Some(sleeper) = unsafe { link.get().as_ref() } {
            if sleeper.wake_at.get() > now && !sleeper.has_new_wakes() {
                link = &sleeper.next;
                continue;
            }
            link.set(sleeper.next.get());
            let has_limit = sleeper.wake_at.get() != FOREVER;
            // SAFETY: it is in no queue any more.
            unsafe { wake(sleeper) };
            if has_limit {
                // It counted while it slept, too.
                RUNNABLE.fetch_sub(1, Ordering::SeqCst);
            }
        }
        // SAFETY: as above.
        let soonest = unsafe { self.sleepers.get().as_ref() }.map(|sleeper| sleeper.wake_at.get());
        apic::arm_timer(soonest.filter(|&soonest| soonest != FOREVER));
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
        if thread.wake_at.get() != FOREVER {
            RUNNABLE.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Thread {
    /// Whether it is parked and was woken since it looked.
    fn has_new_wakes(&self) -> bool {
        // Acquire: pairs with the Release in `wake_task`.
        self.parked.get() && self.task.signal.load(Ordering::Acquire) != self.wakes_seen.get()
    }
}

/// When a sleeper without a limit is woken.
const FOREVER: u64 = u64::MAX;

/// The task of handlers and of CPUs that have no threads yet. It never sleeps.
static HANDLERS: Task = Task::new();

/// The running thread's task; the handlers' in an interrupt handler.
pub(crate) fn current_task() -> &'static Task {
    let cpu = cpu_local::current();
    if cpu.in_interrupt.get() {
        return &HANDLERS;
    }
    // SAFETY: who runs lives, and uses its task no longer than it lives.
    unsafe { cpu.scheduler.current.get().as_ref() }.map_or(&HANDLERS, |thread| &thread.task)
}

/// The thread of a task; `None` for the handlers'.
pub(super) fn thread_of(task: &Task) -> Option<*const Thread> {
    // Every other task is a field of a thread.
    let thread = || ptr::from_ref(task).wrapping_byte_sub(offset_of!(Thread, task)).cast::<Thread>();
    (!ptr::eq(task, &raw const HANDLERS)).then(thread)
}

/// Whether the caller is a thread that may sleep.
pub(crate) fn may_park() -> bool {
    let cpu = cpu_local::current();
    let scheduler = &cpu.scheduler;
    !cpu.in_interrupt.get()
        && !scheduler.current.get().is_null()
        && scheduler.current.get() != scheduler.idle.get()
        && arch::interrupts_enabled()
}

/// Sleeps until `ready` says so, which is looked at first and after each wake, or until a time.
pub(crate) fn park(ready: &mut dyn FnMut() -> bool, limit: Option<Duration>) {
    let scheduler = may_wait();
    let thread = scheduler.current().expect("whoever may wait is a thread");
    let deadline = limit.map_or(FOREVER, |limit| time::ticks().saturating_add(time::ticks_in(limit)));
    thread.parked.set(true);
    loop {
        // Acquire: pairs with the Release in `wake_task`, so a wake after this is seen by `wake_sleepers`.
        thread.wakes_seen.set(thread.task.signal.load(Ordering::Acquire));
        if ready() || time::ticks() >= deadline {
            break;
        }
        sleep_on(scheduler, thread, deadline);
    }
    thread.parked.set(false);
}

/// Wakes the thread of a task should it be parked.
pub(crate) fn wake_task(task: &Task) {
    let Some(thread) = thread_of(task) else { return };
    // SAFETY: the caller vouches that the thread lives.
    let cpu = unsafe { (*thread).cpu };
    // Release: pairs with the Acquire loads in `park` and `has_new_wakes`.
    task.signal.fetch_add(1, Ordering::Release);
    let area = cpus::area(cpu).expect("threads are made for CPUs that run");
    // Also to this CPU, for the caller may be inside anything: the handler runs where sleepers can be touched.
    apic::send(area.apic_id, apic::WAKE_VECTOR);
}

/// Whether a CPU idles: it runs no thread, and handlers only.
pub(crate) fn is_idle(area: &CpuLocal) -> bool {
    // Acquire: pairs with the Release in `idle`; what the CPU's threads did is done.
    area.scheduler.idles.load(Ordering::Acquire)
}

/// Threads that run, are ready to, or will be when their time has come. `SeqCst`: none is missed in between.
static RUNNABLE: AtomicUsize = AtomicUsize::new(0);

/// How many threads run, are ready to, or will be when a time has come; `None` while a device may yet change that.
pub(crate) fn runnable() -> Option<usize> {
    let runnable = RUNNABLE.load(Ordering::SeqCst);
    (io::pending() == 0).then_some(runnable)
}

/// Gives back what this CPU caches while anybody is short of memory. Called when a thread stops running.
fn give_back_when_short() {
    if service().is_short() {
        service().drain_local();
    }
}

/// Registers the handlers of the timer and of wakes. Once.
pub(crate) fn initialise() {
    let timer: interrupts::Handler = |_| cpu_local::current().scheduler.wake_sleepers();
    // The CPU is awake, and looks at its run queue; a thread that is parked is its own to wake.
    let woken: interrupts::Handler = |_| cpu_local::current().scheduler.wake_sleepers();
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
    RUNNABLE.fetch_add(1, Ordering::SeqCst);
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
    give_back_when_short();
    RUNNABLE.fetch_sub(1, Ordering::SeqCst);
    let next = scheduler.ready.lock().pop();
    scheduler.switch_to(next.unwrap_or(scheduler.idle.get()));
}

pub(super) fn yield_now() {
    let scheduler = may_wait();
    give_back_when_short();
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
    let thread = scheduler.current().expect("whoever may wait is a thread");
    sleep_on(scheduler, thread, deadline);
}

/// Puts the running thread among the sleepers and lets others run until it is woken.
fn sleep_on(scheduler: &Scheduler, thread: &Thread, deadline: u64) {
    interrupts::without_interrupts(|| {
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

/// Runs ready threads for ever; while there are none, zeroes a page at a time for the memory service, and halts once that
/// has enough. Called once on each CPU, at the end of its start.
pub(crate) fn idle() -> ! {
    let scheduler = &cpu_local::current().scheduler;
    let mut may_zero = true;
    loop {
        arch::disable_interrupts();
        let next = scheduler.ready.lock().pop();
        if let Some(next) = next {
            arch::enable_interrupts();
            scheduler.switch_to(next);
            may_zero = true;
            continue;
        }
        // Release: pairs with the Acquire in `is_idle`. True also while a page is zeroed: that uses nothing of the CPU's.
        scheduler.idles.store(true, Ordering::Release);
        if may_zero {
            arch::enable_interrupts();
            may_zero = service().zero_idle();
        } else {
            arch::enable_interrupts_and_halt();
            may_zero = true;
        }
        scheduler.idles.store(false, Ordering::Relaxed);
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
