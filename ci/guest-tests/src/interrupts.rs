//! Interrupt handlers: they run where and when they should, allocate and free, and wake threads.
//!
//! Each test has vectors of its own, for a handler stays. What handlers and threads share is in tables with a place for
//! each CPU: a handler runs on the CPU that raised it, and that CPU's thread waits for it.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use core::time::Duration;

use quarry_suite::random::{Random, log_uniform};
use quarry_unikernel::interrupts::{self, Handler, VectorError};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{CpuId, Gfp, Machine, Order, Set};
use quarry_unikernel::thread::{self, WaitQueue};
use quarry_unikernel::topology_model::MAX_CPUS;
use quarry_unikernel::{TrapFrame, cpus};

use crate::harness::{Outcome, seed};
use crate::object::Object;
use crate::team::{check_on_every_cpu, eventually, on_every_cpu, spawn, without_loss};
use crate::{check, check_equal, tests};

const PLAIN: u8 = 0x50;
const HELD_BACK: u8 = 0x51;
const ALLOCATING: u8 = 0x52;
const EXCHANGING: u8 = 0x53;
const WAKING: u8 = 0x54;
const TAKEN: u8 = 0x55;
const LOOKING: u8 = 0x56;

/// A place for each CPU's pointer to an object, or null.
struct Places([AtomicPtr<u8>; MAX_CPUS]);

/// A count for each CPU. Only its own CPU changes it, so `Relaxed` is enough unless another CPU acts on it.
struct Counts([AtomicU64; MAX_CPUS]);

impl Places {
    const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS])
    }

    fn of(&self, cpu: CpuId) -> &AtomicPtr<u8> {
        &self.0[cpu.index()]
    }
}

impl Counts {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_CPUS])
    }

    fn of(&self, cpu: CpuId) -> &AtomicU64 {
        &self.0[cpu.index()]
    }

    /// The calling CPU's.
    fn here(&self) -> &AtomicU64 {
        self.of(cpus::current())
    }
}

/// Registers a test's handler.
pub(crate) fn register(vector: u8, handler: Handler) -> Outcome {
    interrupts::register(vector, handler).map_err(|error| alloc::format!("{error}"))
}

/// Raises an interrupt and waits until its handler has counted.
pub(crate) fn raise_and_wait(vector: u8, count: &AtomicU64) -> Outcome {
    let before = count.load(Ordering::Relaxed);
    interrupts::raise(vector);
    eventually("the handler has run", || count.load(Ordering::Relaxed) != before)
}

fn a_handler_runs_on_the_cpu_that_raised_it() -> Outcome {
    static SEEN: Counts = Counts::new();
    fn handler(frame: &mut TrapFrame) {
        let as_it_should = frame.vector == u64::from(PLAIN) && interrupts::in_handler() && !interrupts::are_enabled();
        SEEN.here().fetch_add(if as_it_should { 1 } else { 1 << 32 }, Ordering::Relaxed);
    }
    register(PLAIN, handler)?;
    check_on_every_cpu(|cpu| {
        let seen = SEEN.of(cpu);
        for number in 1..=100 {
            raise_and_wait(PLAIN, seen)?;
            check_equal!(seen.load(Ordering::Relaxed), number, "interrupts seen");
            check!(interrupts::are_enabled() && !interrupts::in_handler(), "the handler left something behind");
        }
        Ok(())
    })
}

fn vectors_that_cannot_be_had_are_errors() -> Outcome {
    let nothing: Handler = |_| {};
    for reserved in [0, 13, 31, 0xf0, 0xff] {
        let error = interrupts::register(reserved, nothing);
        check_equal!(error, Err(VectorError::Reserved(reserved)), "registering vector {reserved}");
    }
    register(TAKEN, nothing)?;
    check_equal!(interrupts::register(TAKEN, nothing), Err(VectorError::InUse(TAKEN)), "registering a vector twice");
    Ok(())
}

fn interrupts_that_are_off_come_later() -> Outcome {
    static SEEN: Counts = Counts::new();
    register(HELD_BACK, |_| {
        SEEN.here().fetch_add(1, Ordering::Relaxed);
    })?;
    check_on_every_cpu(|cpu| {
        let seen = SEEN.of(cpu);
        for _ in 0..100 {
            let before = seen.load(Ordering::Relaxed);
            let meanwhile = interrupts::without_interrupts(|| {
                interrupts::raise(HELD_BACK);
                let enabled_inside =
                    interrupts::without_interrupts(interrupts::are_enabled) || interrupts::are_enabled();
                (0..1000).any(|_| core::hint::black_box(seen).load(Ordering::Relaxed) != before) || enabled_inside
            });
            check!(!meanwhile, "a handler ran with interrupts off");
            eventually("it has come", || seen.load(Ordering::Relaxed) == before + 1)?;
        }
        Ok(())
    })
}

fn handlers_have_a_set_of_the_memory_service_to_themselves() -> Outcome {
    static SEEN: Counts = Counts::new();
    fn active_set() -> u64 {
        service().machine().set().addr() as u64
    }
    fn has_set() -> bool {
        // SAFETY: the active set is valid.
        unsafe { (*service().machine().set()).is_attached() }
    }
    static WITHOUT: AtomicU64 = AtomicU64::new(0);
    register(LOOKING, |_| {
        // Another interrupt's handler may have had use for one already.
        WITHOUT.fetch_add((!has_set()).into(), Ordering::Relaxed);
        let object = service().kmalloc(64, Gfp::ATOMIC);
        // SAFETY: allocated above, if it was.
        unsafe { service().kfree(object) };
        SEEN.here().store(if has_set() { active_set() } else { 0 }, Ordering::Relaxed);
    })?;
    let bytes_before = service().metadata().sets;
    check_on_every_cpu(|cpu| {
        let (own, seen) = (active_set(), SEEN.of(cpu));
        raise_and_wait(LOOKING, seen)?;
        check!(seen.load(Ordering::Relaxed) != 0, "the handler has no set though it allocated");
        check!(seen.load(Ordering::Relaxed) != own, "thread and handler share the set at {own:#x}");
        check_equal!(active_set(), own, "the thread's set after an interrupt");
        Ok(())
    })?;
    let mut sets = on_every_cpu(|cpu| [active_set(), SEEN.of(cpu).load(Ordering::Relaxed)]).concat();
    let count = sets.len();
    sets.sort_unstable();
    sets.dedup();
    check_equal!(sets.len(), count, "different sets");
    let made = WITHOUT.load(Ordering::Relaxed) * (size_of::<Set>() as u64).next_multiple_of(4096);
    check_equal!(service().metadata().sets - bytes_before, made, "bytes of sets made for handlers that allocate first");
    Ok(())
}

fn handlers_allocate_while_their_thread_does() -> Outcome {
    static HANDLED: Counts = Counts::new();
    static ERRORS: AtomicU64 = AtomicU64::new(0);
    /// Of all CPUs together.
    const STEPS: usize = 10_000;
    fn handler(_: &mut TrapFrame) {
        let number = HANDLED.here().fetch_add(1, Ordering::Relaxed);
        let mut kept: [Option<Object>; 8] = [const { None }; 8];
        for (index, place) in kept.iter_mut().enumerate() {
            *place = Object::new(8 << ((number as usize + index) % 12), Gfp::ATOMIC);
            if let Some(object) = place {
                object.fill(number);
            }
        }
        let right = kept.iter().all(|object| object.as_ref().is_some_and(|object| object.holds(number)));
        let page = service().get_free_pages(Gfp::ATOMIC, Order::ZERO);
        service().free_pages(page, Order::ZERO);
        if !right || page.is_null() {
            ERRORS.fetch_add(1, Ordering::Relaxed);
        }
    }
    register(ALLOCATING, handler)?;
    without_loss(|| {
        check_on_every_cpu(|cpu| {
            // A thread that sleeps brings timer interrupts at any time.
            let sleeper = spawn(cpu, || {
                for _ in 0..50 {
                    thread::sleep(Duration::from_micros(100));
                }
            });
            let mut random = Random::new(seed(), u64::from(cpu.0));
            let mut objects: [Option<Object>; 32] = [const { None }; 32];
            for step in 0..STEPS / cpus::online().count() {
                interrupts::raise(ALLOCATING);
                let index = random.below(objects.len() as u64) as usize;
                let label = index as u64;
                if let Some(object) = objects[index].take() {
                    check!(object.holds(label), "somebody wrote to {object:?} in step {step}");
                } else {
                    let mut object = Object::new(log_uniform(&mut random, 0, 14), Gfp::KERNEL).ok_or("no memory")?;
                    object.fill(label);
                    objects[index] = Some(object);
                }
                if step % 64 == 0 {
                    thread::yield_now();
                }
            }
            sleeper.join();
            check!(HANDLED.of(cpu).load(Ordering::Relaxed) > 0, "no handler ever ran");
            check_equal!(ERRORS.load(Ordering::Relaxed), 0, "errors in handlers");
            Ok(())
        })
    })
}

fn objects_pass_between_handler_and_thread() -> Outcome {
    static HANDLED: Counts = Counts::new();
    static TO_HANDLER: Places = Places::new();
    static TO_THREAD: Places = Places::new();
    static ERRORS: AtomicU64 = AtomicU64::new(0);
    const BYTES: usize = 200;
    /// Takes the object out of a place. Thread and handler of one CPU order themselves, so `Relaxed` is enough.
    fn take(places: &Places, cpu: CpuId) -> Option<Object> {
        let start = places.of(cpu).swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: `put` released an object of that many bytes there, and the swap made it this caller's alone.
        unsafe { Object::adopt(start, BYTES) }
    }
    fn put(places: &Places, cpu: CpuId, mut object: Object) {
        object.fill(object.address() as u64);
        let old = places.of(cpu).swap(object.release(), Ordering::Relaxed);
        assert!(old.is_null(), "the other side has taken the last one");
    }
    fn is_whole(object: Option<Object>) -> bool {
        object.is_some_and(|object| object.holds(object.address() as u64))
    }
    fn handler(_: &mut TrapFrame) {
        let cpu = cpus::current();
        let fresh = Object::new(BYTES, Gfp::ATOMIC);
        if !is_whole(take(&TO_HANDLER, cpu)) || fresh.is_none() {
            ERRORS.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(fresh) = fresh {
            put(&TO_THREAD, cpu, fresh);
        }
        HANDLED.of(cpu).fetch_add(1, Ordering::Relaxed);
    }
    register(EXCHANGING, handler)?;
    without_loss(|| {
        check_on_every_cpu(|cpu| {
            for _ in 0..2000 {
                put(&TO_HANDLER, cpu, Object::new(BYTES, Gfp::KERNEL).ok_or("no memory")?);
                raise_and_wait(EXCHANGING, HANDLED.of(cpu))?;
                check!(is_whole(take(&TO_THREAD, cpu)), "what the handler allocated is not whole");
            }
            check_equal!(ERRORS.load(Ordering::Relaxed), 0, "errors in handlers");
            Ok(())
        })
    })
}

fn a_handler_wakes_a_thread() -> Outcome {
    static EVENTS: Counts = Counts::new();
    static QUEUES: [WaitQueue; MAX_CPUS] = [const { WaitQueue::new() }; MAX_CPUS];
    fn handler(_: &mut TrapFrame) {
        // Release: pairs with the Acquire of the thread that waits, maybe on another CPU.
        EVENTS.here().fetch_add(1, Ordering::Release);
        QUEUES[cpus::current().index()].wake_all();
    }
    /// Of all CPUs together.
    const ROUNDS: u64 = 160;
    register(WAKING, handler)?;
    let online = cpus::online().count();
    let rounds = ROUNDS / online as u64 + 1;
    check_on_every_cpu(move |cpu| {
        // One waits on the CPU whose handler wakes it, one on the next.
        let next = cpus::online().nth((cpu.index() + 1) % online).unwrap_or(cpu);
        let start = EVENTS.of(cpu).load(Ordering::Acquire);
        for round in start + 1..=start + rounds {
            let wait = move || QUEUES[cpu.index()].wait_until(|| EVENTS.of(cpu).load(Ordering::Acquire) >= round);
            let waiters = [spawn(cpu, wait), spawn(next, wait)];
            thread::yield_now();
            interrupts::raise(WAKING);
            waiters.into_iter().for_each(thread::JoinHandle::join);
        }
        Ok(())
    })
}

tests! { "interrupts":
    a_handler_runs_on_the_cpu_that_raised_it,
    vectors_that_cannot_be_had_are_errors,
    interrupts_that_are_off_come_later,
    handlers_have_a_set_of_the_memory_service_to_themselves,
    handlers_allocate_while_their_thread_does,
    objects_pass_between_handler_and_thread,
    a_handler_wakes_a_thread,
}
