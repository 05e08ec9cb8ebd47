//! Memory pools: used in handlers, waiters woken across CPUs, progress when all other memory of a node is gone.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{CpuId, Gfp, Mempool, NodeId, Order};
use quarry_unikernel::thread::{self, JoinHandle};
use quarry_unikernel::{TrapFrame, cpus, interrupts};

use crate::harness::Outcome;
use crate::hoard::{Hoard, smallest_node};
use crate::interrupts::{raise_and_wait, register};
use crate::team::{Gate, another_cpu, check_on_every_cpu, eventually, spawn, without_loss};
use crate::{check, check_equal, tests};

const ALLOCATING: u8 = 0x62;
const FREEING: u8 = 0x63;

/// A pool that tests and their handlers find in a static.
struct Shared(AtomicPtr<Mempool<'static>>);

impl Shared {
    const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn set(&self, pool: Mempool<'static>) {
        self.0.store(Box::into_raw(Box::new(pool)), Ordering::Release);
    }

    fn pool(&self) -> &Mempool<'static> {
        // SAFETY: a test sets the pool before it starts whoever asks, and destroys it after they are done.
        unsafe { &*self.0.load(Ordering::Acquire) }
    }

    fn destroy(&self) -> Outcome {
        // SAFETY: made from a box in `set`; nobody uses it any more.
        let pool = unsafe { Box::from_raw(self.0.swap(ptr::null_mut(), Ordering::Acquire)) };
        service().mempool_destroy(*pool).map_err(|error| format!("{error}"))
    }
}

/// Pages of the node that `data` says, for a pool.
fn page_of_node(gfp: Gfp, data: *mut ()) -> *mut u8 {
    let block = service().alloc_pages_node(NodeId(data.addr() as u8), gfp | Gfp::THISNODE, Order::ZERO);
    block.map_or(ptr::null_mut(), |block| service().page_address(block))
}

fn free_page(page: *mut u8, _data: *mut ()) {
    service().free_pages(page, Order::ZERO);
}

/// A pool of pages of one node.
fn pool_of_node(node: NodeId, minimum: usize) -> Result<Mempool<'static>, String> {
    let data = ptr::without_provenance_mut(node.index());
    // SAFETY: pages are whoever's they were handed to, and the functions may be called in any context.
    unsafe { service().mempool_create(minimum, page_of_node, free_page, data) }.map_err(|error| format!("{error}"))
}

/// The only element there is, for a pool that has it.
static ONLY: AtomicU64 = AtomicU64::new(0);

fn the_only_element(_: Gfp, _data: *mut ()) -> *mut u8 {
    if ONLY.swap(1, Ordering::Relaxed) == 0 { ONLY.as_ptr().cast() } else { ptr::null_mut() }
}

fn give_up_the_only_element(_: *mut u8, _data: *mut ()) {
    ONLY.store(0, Ordering::Relaxed);
}

fn a_handler_takes_elements_while_its_thread_does() -> Outcome {
    static POOL: Shared = Shared::new();
    static HANDLED: AtomicU64 = AtomicU64::new(0);
    static ERRORS: AtomicU64 = AtomicU64::new(0);
    /// Of all CPUs together.
    const ROUNDS: usize = 1000;
    fn handler(_: &mut TrapFrame) {
        let pool = POOL.pool();
        let element = service().mempool_alloc(pool, Gfp::ATOMIC);
        // The reserve may be empty just now.
        let reserved = service().mempool_alloc_preallocated(pool);
        if element.is_null() || element == reserved {
            ERRORS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: both are the handler's, and freed once.
        unsafe {
            service().mempool_free(element, pool);
            service().mempool_free(reserved, pool);
        }
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    register(ALLOCATING, handler)?;
    without_loss(|| {
        POOL.set(service().mempool_create_kmalloc_pool(2, 300).map_err(|error| format!("{error}"))?);
        let handled = HANDLED.load(Ordering::Relaxed);
        let rounds = ROUNDS / cpus::online().count() + 1;
        check_on_every_cpu(move |_| {
            for _ in 0..rounds {
                let element = service().mempool_element(POOL.pool(), Gfp::KERNEL).ok_or("no element")?;
                interrupts::raise(ALLOCATING);
                drop(element);
            }
            Ok(())
        })?;
        check!(HANDLED.load(Ordering::Relaxed) > handled, "no handler ever ran");
        check_equal!(ERRORS.load(Ordering::Relaxed), 0, "errors in handlers");
        POOL.destroy()
    })
}

fn a_free_on_another_cpu_or_in_a_handler_wakes_who_waits() -> Outcome {
    static POOL: Shared = Shared::new();
    static TO_FREE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
    static FREED: AtomicU64 = AtomicU64::new(0);
    const ROUNDS: u64 = 40;
    fn handler(_: &mut TrapFrame) {
        // SAFETY: the thread that raised the interrupt gave the element up.
        unsafe { service().mempool_free(TO_FREE.load(Ordering::Relaxed), POOL.pool()) };
        FREED.fetch_add(1, Ordering::Relaxed);
    }
    register(FREEING, handler)?;
    without_loss(|| {
        // SAFETY: there is one element, which is nobody's but the pool's; the functions may be called in any context.
        let pool = unsafe { service().mempool_create(1, the_only_element, give_up_the_only_element, ptr::null_mut()) };
        POOL.set(pool.map_err(|error| format!("{error}"))?);
        for round in 0..ROUNDS {
            let element = service().mempool_alloc(POOL.pool(), Gfp::KERNEL);
            let waiter = spawn(another_cpu(), || {
                let element = service().mempool_alloc(POOL.pool(), Gfp::KERNEL);
                let place = element.addr();
                // SAFETY: the element is this thread's, and freed once.
                unsafe { service().mempool_free(element, POOL.pool()) };
                place
            });
            eventually("the other thread waits", || service().pool_waiters() == 1)?;
            if round % 2 == 0 {
                // SAFETY: freed once.
                unsafe { service().mempool_free(element, POOL.pool()) };
            } else {
                TO_FREE.store(element, Ordering::Relaxed);
                raise_and_wait(FREEING, &FREED)?;
            }
            check_equal!(waiter.join(), element.addr(), "the element that was handed over");
        }
        POOL.destroy()
    })
}

fn threads_go_on_when_all_other_memory_of_the_node_is_gone() -> Outcome {
    static POOL: Shared = Shared::new();
    /// Of all CPUs together.
    const ROUNDS: usize = 200;
    fn work(cpu: CpuId, rounds: usize) -> Outcome {
        for round in 0..rounds {
            let element = service().mempool_element(POOL.pool(), Gfp::NOIO).ok_or("who may wait got nothing")?;
            let (word, mark) = (element.as_ptr().cast::<u64>(), (usize::from(cpu.0) << 32 | round) as u64);
            // SAFETY: the element is a page, and this thread's alone.
            unsafe { word.write_volatile(mark) };
            // Others come meanwhile, and must wait.
            thread::yield_now();
            // SAFETY: as above.
            check_equal!(unsafe { word.read_volatile() }, mark, "what was written to the element");
        }
        Ok(())
    }
    let node = smallest_node();
    without_loss(|| {
        POOL.set(pool_of_node(node, 2)?);
        let rounds = ROUNDS / cpus::online().count() + 1;
        // The threads' own memory comes first.
        let gate = Arc::new(Gate::new(cpus::online().count() + 1));
        let start = |cpu| {
            let gate = Arc::clone(&gate);
            spawn(cpu, move || {
                gate.pass();
                work(cpu, rounds)
            })
        };
        let threads: Vec<_> = cpus::online().map(start).collect();
        let hoard = Hoard::of_pages(node, Gfp::ATOMIC | Gfp::NOWARN);
        let emptied = page_of_node(Gfp::ATOMIC | Gfp::NOWARN, ptr::without_provenance_mut(node.index())).is_null();
        gate.pass();
        let outcome = threads.into_iter().try_for_each(JoinHandle::join);
        drop(hoard);
        check!(emptied, "the node had a page left");
        outcome?;
        POOL.destroy()
    })
}

tests! { "mempool":
    a_handler_takes_elements_while_its_thread_does,
    a_free_on_another_cpu_or_in_a_handler_wakes_who_waits,
    threads_go_on_when_all_other_memory_of_the_node_is_gone,
}
