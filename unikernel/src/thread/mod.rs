//! Threads: cooperative, each bound to one CPU for its life.
//!
//! Users: images. A thread runs until it waits, sleeps, yields or ends; nothing else on its CPU runs meanwhile but
//! interrupt handlers. So what only threads of one CPU use needs no lock.
//!
//! # Theory
//!
//! A thread is *running*, *ready* (in its CPU's run queue), or *waiting* (in a wait queue, or among its CPU's
//! sleepers). One link in the thread is enough for all queues. Threads never change CPU, which makes waking simple:
//! whoever wakes takes the thread off the queue it waits in and appends it to the run queue of its CPU, under that
//! queue's lock, even though the thread may not have finished leaving the CPU yet: only that CPU takes it from there,
//! after it has.
//!
//! A run queue that was empty may belong to a halted CPU, so its CPU is interrupted. A CPU halts with interrupts
//! enabled by the very same instruction, after it found its queue empty with interrupts off, so the interrupt is not
//! missed.
//!
//! Locks: a wait queue's, then a run queue's; both are taken with interrupts off. Sleepers are their CPU's own, touched
//! with interrupts off.
//!
//! A thread that waits for memory is *parked*: among the sleepers, but a wake of its task ends its sleep early. The
//! waker adds to the task's count of wakes (Release, paired with the Acquire of the parked thread's CPU) and interrupts
//! that CPU, whose sleepers are nobody else's to touch. A CPU that was woken looks for sleepers with new wakes.
//!
//! When a thread stops running while others are short of memory, what its CPU caches is given back first.
//!
//! [`scheduler::RUNNABLE`] counts the threads that run, are ready, or sleep with a limit. Whoever makes a thread ready
//! counts it first and stops counting itself later, so the count is never too low.
//!
//! A thread that is alive owns a reference to itself. When it ends, the thread that runs next on its CPU clears up
//! behind it (gives the stack back, says that it has ended, drops the reference), for a thread cannot free the stack it
//! stands on. So who has joined a thread finds all its memory given back.

pub mod io;
mod queue;
mod scheduler;
mod switch;
mod wait;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use quarry_memory::Task;
use quarry_topology::CpuId;
use spin::Mutex;

use crate::stack::Stack;
use crate::{cpu_local, cpus, time};

pub(crate) use scheduler::{Scheduler, current_task, idle, initialise, is_idle, may_park, park, runnable, wake_task};
pub use wait::WaitQueue;

/// Bytes of a thread's stack.
pub const STACK_BYTES: u64 = 64 << 10;

/// What the scheduler knows of a thread.
pub(crate) struct Thread {
    id: u64,
    name: &'static str,
    cpu: CpuId,
    /// Link of the one queue it is in; guarded by that queue's lock.
    next: Cell<*const Thread>,
    /// Where its registers are while it does not run. Its CPU's own.
    stack_pointer: UnsafeCell<u64>,
    /// When a sleeper is to be woken, in ticks. Its CPU's own.
    wake_at: Cell<u64>,
    /// What it is to run, until it starts. Its CPU's own.
    body: Cell<Option<Box<dyn FnOnce() + Send>>>,
    /// Until it has ended; the idle threads stand on stacks of their CPU. Its CPU's own.
    stack: Cell<Option<Stack>>,
    ended: AtomicBool,
    end: WaitQueue,
    /// Its task's count of wakes when it looked last. Its CPU's own.
    wakes_seen: Cell<u32>,
    /// Whether it sleeps for memory, so that a wake of its task ends its sleep. Its CPU's own.
    parked: Cell<bool>,
    /// What the memory service keeps for it.
    task: Task,
}

// SAFETY: the cells are used by the thread's own CPU alone, or (`next`) under the lock of the queue the thread is in.
unsafe impl Sync for Thread {}
// SAFETY: as above; a thread can be made and dropped on any CPU, while it is in no queue.
unsafe impl Send for Thread {}

/// Number of the next thread.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Thread {
    fn new(name: &'static str, cpu: CpuId, stack: Option<Stack>, body: Option<Box<dyn FnOnce() + Send>>) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            cpu,
            next: Cell::new(ptr::null()),
            stack_pointer: UnsafeCell::new(stack.as_ref().map_or(0, |stack| switch::prepare(stack.end()))),
            wake_at: Cell::new(0),
            body: Cell::new(body),
            stack: Cell::new(stack),
            ended: AtomicBool::new(false),
            end: WaitQueue::new(),
            wakes_seen: Cell::new(0),
            parked: Cell::new(false),
            task: Task::new(),
        }
    }
}

/// Why a thread could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// There is no such CPU, or it did not start.
    NoSuchCpu(CpuId),
    /// There is no memory for its stack.
    NoMemory,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCpu(cpu) => write!(f, "{cpu} does not run: `cpus::online` lists those that do"),
            Self::NoMemory => f.write_str("there is no memory for the thread's stack"),
        }
    }
}

impl core::error::Error for SpawnError {}

/// A thread whose result can be waited for. Dropping it lets the thread go on by itself.
pub struct JoinHandle<T> {
    thread: Arc<Thread>,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> JoinHandle<T> {
    /// Waits until the thread has ended and returns what its body returned. Not in an interrupt handler.
    pub fn join(self) -> T {
        // Acquire: pairs with the Release of the thread's end.
        self.thread.end.wait_until(|| self.thread.ended.load(Ordering::Acquire));
        // The thread's CPU said so and is about to drop its reference: then the last one is this.
        while Arc::strong_count(&self.thread) > 1 {
            core::hint::spin_loop();
        }
        self.result.lock().take().expect("a thread that has ended has left its result, and only this handle takes it")
    }

    /// Whether the thread has ended, so that [`Self::join`] would not wait.
    pub fn is_finished(&self) -> bool {
        // Acquire: as in `join`.
        self.thread.ended.load(Ordering::Acquire)
    }
}

/// Starts a thread on a CPU, with a stack of [`STACK_BYTES`] on that CPU's node. It runs when its turn comes. The name
/// is for panic reports.
///
/// # Errors
///
/// [`SpawnError`] when the CPU does not run, or there is no memory.
pub fn spawn_on<T, F>(cpu: CpuId, name: &'static str, body: F) -> Result<JoinHandle<T>, SpawnError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    spawn_with_stack(cpu, name, STACK_BYTES, body)
}

/// [`spawn_on`] with a stack of `stack_bytes`, rounded up to whole pages.
///
/// # Errors
///
/// As [`spawn_on`].
pub fn spawn_with_stack<T, F>(
    cpu: CpuId,
    name: &'static str,
    stack_bytes: u64,
    body: F,
) -> Result<JoinHandle<T>, SpawnError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let area = cpus::area(cpu).ok_or(SpawnError::NoSuchCpu(cpu))?;
    let bytes = stack_bytes.max(1).checked_next_multiple_of(crate::layout::PAGE_BYTES).ok_or(SpawnError::NoMemory)?;
    let stack = Stack::new(bytes, cpu, area.node).ok_or(SpawnError::NoMemory)?;
    let result = Arc::new(Mutex::new(None));
    let place = Arc::clone(&result);
    let body = Box::new(move || {
        let value = body();
        *place.lock() = Some(value);
    });
    let thread = Arc::new(Thread::new(name, cpu, Some(stack), Some(body)));
    // The reference a living thread has to itself; `Scheduler::reap` drops it.
    let itself = Arc::into_raw(Arc::clone(&thread));
    // SAFETY: the thread is in no queue yet, and lives until it ends.
    unsafe { scheduler::wake(itself) };
    Ok(JoinHandle { thread, result })
}

/// Lets the other ready threads of this CPU run first. Not in an interrupt handler.
pub fn yield_now() {
    scheduler::yield_now();
}

/// Waits for at least `duration`; other threads run meanwhile. Not in an interrupt handler.
pub fn sleep(duration: Duration) {
    scheduler::sleep_until(time::ticks().saturating_add(time::ticks_in(duration)));
}

/// Writes whose task it is.
pub(crate) fn describe_task(task: &Task, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // SAFETY: every task the service sees is that of a thread, which lives while the service has the reference, or the
    // handlers', which is compared first.
    match scheduler::thread_of(task).map(|thread| unsafe { &*thread }) {
        Some(thread) => write!(f, "thread \"{}\" (number {}) on {}", thread.name, thread.id, thread.cpu),
        None => f.write_str("an interrupt handler"),
    }
}

/// The running thread's number, unique in this run.
pub fn current_id() -> u64 {
    cpu_local::current().scheduler.current().map_or(0, |thread| thread.id)
}

/// The running thread's name; `None` before there are threads.
pub fn current_name() -> Option<&'static str> {
    cpu_local::current().scheduler.current().map(|thread| thread.name)
}
