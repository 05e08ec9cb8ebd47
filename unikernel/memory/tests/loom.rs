//! Every interleaving of the hand-made protocols: the very files that ship, compiled against loom's atomics.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

    /// So that who waits at all starves, too.
    pub(crate) const PATIENCE_ROUNDS: u32 = 1;
}

#[path = "../src/raw_lock.rs"]
#[allow(dead_code, reason = "the model runs the protocol, not what hosts do with it around a fork")]
mod raw_lock;

#[path = "../src/pin.rs"]
mod pin;

#[path = "../src/reserve.rs"]
#[allow(dead_code, reason = "pools are not resized in the model")]
mod reserve;

use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex, Notify};
use pin::{CellStack, PinCell};
use reserve::{Given, Queue, Reserve, Waiter};
use sync::{AtomicU32, AtomicU64, Ordering};

#[test]
fn two_threads_never_hold_the_lock_together_and_each_sees_the_others_writes() {
    loom::model(|| {
        let shared = Arc::new((
            raw_lock::RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)),
            UnsafeCell::new(0u32),
        ));
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                for _ in 0..2 {
                    shared.0.acquire(|_| loom::thread::yield_now());
                    // SAFETY: loom itself fails the model when two threads are inside at once.
                    shared.1.with_mut(|count| unsafe { *count += 1 });
                    shared.0.release();
                }
            })
        });
        for thread in threads {
            thread.join().expect("the model's threads do not panic");
        }
        // SAFETY: the threads have ended.
        shared.1.with(|count| assert_eq!(unsafe { *count }, 4));
        assert_eq!(shared.0.times_taken(), 4);
        assert!(shared.0.try_acquire(), "it is free, and nobody starves");
    });
}

/// A pool as `mempool.rs` makes one, of elements that exist already: loom's mutex for its lock, a notification for a
/// thread's sleep.
struct Pool {
    guarded: Mutex<(Queue<Arc<Notify>>, Box<Reserve>)>,
    reserve: *const Reserve,
    missing: AtomicU32,
    /// Elements that went home.
    home: AtomicU32,
    array: *mut NonNull<u8>,
    elements: Vec<*mut UnsafeCell<u32>>,
}

// SAFETY: the reserve is only named by its address, the array is the reserve's; loom watches over the elements.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool that keeps all of its `size` elements.
    fn new(size: usize) -> Arc<Self> {
        let array = Box::leak(vec![NonNull::dangling(); size].into_boxed_slice()).as_mut_ptr();
        let mut reserve = Box::new(Reserve::new());
        let mut queue = Queue::new();
        // SAFETY: the array has room for `size` pointers and lives until the pool goes.
        unsafe { reserve.move_to(array, size) };
        assert!(reserve.set_minimum(size));
        let elements: Vec<_> = (0..size).map(|_| Box::into_raw(Box::new(UnsafeCell::new(0)))).collect();
        for &element in &elements {
            let kept = queue.give(&mut reserve, NonNull::new(element.cast()).expect("a box"), |_| unreachable!());
            assert_eq!(kept, Ok(Given::ToReserve));
        }
        let address = std::ptr::from_ref(&*reserve);
        Arc::new(Self {
            guarded: Mutex::new((queue, reserve)),
            reserve: address,
            missing: AtomicU32::new(0),
            home: AtomicU32::new(0),
            array,
            elements,
        })
    }

    fn with<R>(&self, work: impl FnOnce(&mut Queue<Arc<Notify>>, &mut Reserve) -> R) -> R {
        let mut guard = self.guarded.lock().expect("no thread of the model panics");
        let (queue, reserve) = &mut *guard;
        let result = work(queue, reserve);
        self.missing.store(reserve.missing() as u32, Ordering::Relaxed);
        result
    }

    /// An element, waiting for it; `None` when the waiter has no patience and gave up.
    fn alloc(&self, patient: bool) -> Option<NonNull<u8>> {
        let waiter = Waiter::new(self.reserve, Arc::new(Notify::new()));
        // SAFETY: the waiter is taken off the queue below, before it goes.
        let taken = self.with(|queue, reserve| unsafe { queue.take_or_wait(reserve, &waiter) });
        while taken.is_none() && patient && !waiter.is_served() {
            waiter.who.wait();
        }
        self.with(|queue, _| queue.remove(&waiter));
        taken.or_else(|| waiter.take())
    }

    fn free(&self, element: NonNull<u8>) {
        let given = self.missing.load(Ordering::Relaxed) > 0
            && self.with(|queue, reserve| queue.give(reserve, element, |who| who.notify())).is_ok();
        if !given {
            self.home.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes to an element: loom fails the model when another thread does so at the same time.
    fn use_up(element: NonNull<u8>) {
        // SAFETY: elements are cells of loom's, which live until the pool goes.
        let cell = unsafe { element.cast::<UnsafeCell<u32>>().as_ref() };
        // SAFETY: loom itself fails the model when two threads are inside at once.
        cell.with_mut(|value| unsafe { *value += 1 });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for &element in &self.elements {
            // SAFETY: made from a box in `new`, and nobody uses it any more.
            drop(unsafe { Box::from_raw(element) });
        }
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.array, self.elements.len())) });
    }
}

#[test]
fn every_waiter_of_a_pool_gets_an_element_that_nobody_else_has() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let pool = Pool::new(1);
        let work = |pool: &Pool| {
            let element = pool.alloc(true).expect("a patient waiter gets one");
            Pool::use_up(element);
            pool.free(element);
        };
        let threads = [(); 2].map(|()| {
            let pool = Arc::clone(&pool);
            loom::thread::spawn(move || work(&pool))
        });
        work(&pool);
        for thread in threads {
            thread.join().expect("the model's threads do not panic");
        }
        assert_eq!(pool.with(|_, reserve| reserve.missing()), 0, "the element is back in the reserve");
        assert_eq!(pool.home.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_waiter_that_gives_up_while_it_is_served_loses_nothing() {
    loom::model(|| {
        let pool = Pool::new(1);
        let element = pool.alloc(true).expect("the reserve has one");
        let other = Arc::clone(&pool);
        let thread = loom::thread::spawn(move || {
            if let Some(element) = other.alloc(false) {
                Pool::use_up(element);
                other.free(element);
            }
        });
        Pool::use_up(element);
        pool.free(element);
        thread.join().expect("the model's threads do not panic");
        assert_eq!(pool.with(|_, reserve| reserve.missing()), 0, "the element is back in the reserve");
    });
}

/// A page of two possible frames behind a cell, with contents loom watches.
struct MovablePage {
    cell: PinCell,
    frames: [UnsafeCell<u32>; 2],
}

impl MovablePage {
    fn new() -> Arc<Self> {
        let page = Self { cell: PinCell::new(AtomicU64::new(0)), frames: [(); 2].map(|()| UnsafeCell::new(0)) };
        page.cell.occupy(0);
        Arc::new(page)
    }

    /// What compaction does with it; whether the page moved.
    fn move_out_of(&self, from: u32) -> bool {
        let moves = self.cell.begin_move(from);
        if moves {
            // SAFETY: loom itself fails the model when anybody writes to the one or touches the other meanwhile.
            let contents = self.frames[from as usize].with(|contents| unsafe { *contents });
            // SAFETY: as above.
            self.frames[1 - from as usize].with_mut(|to| unsafe { *to = contents });
            self.cell.end_move(1 - from);
        }
        moves
    }

    /// Adds one to the contents through a pin.
    fn add_one(&self) {
        let frame = self.cell.pin(|_| loom::thread::yield_now());
        // SAFETY: as above.
        self.frames[frame as usize].with_mut(|contents| unsafe { *contents += 1 });
        self.cell.unpin();
    }
}

#[test]
fn what_was_written_through_a_pin_is_there_after_the_page_moved() {
    loom::model(|| {
        let page = MovablePage::new();
        let mover = {
            let page = Arc::clone(&page);
            loom::thread::spawn(move || page.move_out_of(0) && page.move_out_of(1))
        };
        page.add_one();
        page.add_one();
        mover.join().expect("the model's threads do not panic");
        let frame = page.cell.pin(|_| loom::thread::yield_now());
        // SAFETY: the mover has ended.
        page.frames[frame as usize].with(|contents| assert_eq!(unsafe { *contents }, 2));
    });
}

#[test]
fn a_page_is_freed_where_it_is_though_it_may_be_moving() {
    loom::model(|| {
        let page = MovablePage::new();
        let mover = {
            let page = Arc::clone(&page);
            loom::thread::spawn(move || page.move_out_of(0))
        };
        let frame = page.cell.vacate(|_| loom::thread::yield_now());
        // SAFETY: whoever frees the page is the last to touch it there.
        page.frames[frame as usize].with_mut(|contents| unsafe { *contents = 9 });
        let has_moved = mover.join().expect("the model's threads do not panic");
        assert_eq!(frame, u32::from(has_moved));
    });
}

#[test]
fn no_vacant_cell_is_given_out_twice_or_lost() {
    loom::model(|| {
        let cells = Arc::new([(); 2].map(|()| PinCell::new(AtomicU64::new(0))));
        let vacant = Arc::new(CellStack::new(AtomicU64::new(CellStack::EMPTY)));
        (0..2).for_each(|cell| vacant.push(&*cells, cell));
        let other = {
            let (cells, vacant) = (Arc::clone(&cells), Arc::clone(&vacant));
            loom::thread::spawn(move || {
                let first = vacant.pop(&*cells);
                let second = vacant.pop(&*cells);
                // In the other order, so that a stale link of the other thread would lead astray.
                first.into_iter().chain(second).for_each(|cell| vacant.push(&*cells, cell));
            })
        };
        let mine = vacant.pop(&*cells);
        if let Some(cell) = mine {
            cells[cell as usize].occupy(5);
        }
        other.join().expect("the model's threads do not panic");
        let mut all: Vec<_> = mine.into_iter().chain(std::iter::from_fn(|| vacant.pop(&*cells))).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}
