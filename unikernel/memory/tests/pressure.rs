//! Several threads on one instance whose memory is gone: who waits, who gets what is freed, who may fail, and what
//! shrinkers and balancing do about it.
//!
//! A thread must have its set before memory is gone, so crews are made first. Nothing depends on how long things take:
//! what must happen is waited for.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};

use quarry_memory::events::Event;
use quarry_memory::hosted::Hosted;
use quarry_memory::reclaim::MAX_ROUNDS;
use quarry_memory::{CpuId, Gfp, NodeId, Order, Pfn, ShrinkControl, Shrinker, Topology};

/// Takes what a request that must not fail may have, and fails when that is gone.
const GREEDY: Gfp = Gfp::KERNEL.union(Gfp::HIGH).union(Gfp::NORETRY).union(Gfp::NOWARN);

const NOFAIL: Gfp = Gfp::KERNEL.union(Gfp::NOFAIL);

fn small_machine() -> &'static Hosted {
    let topology = Topology::builder().node(64 << 20, 8).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

#[track_caller]
fn assert_all_returned(hosted: &'static Hosted) {
    let service = hosted.service();
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!((rows.slab_in_use, rows.large, rows.pages_in_use), (0, 0, 0), "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

/// All single frames that `gfp` gives.
fn hoard(hosted: &'static Hosted, gfp: Gfp) -> Vec<Pfn> {
    std::iter::from_fn(|| hosted.service().alloc_pages(gfp, Order::ZERO)).collect()
}

fn free(hosted: &'static Hosted, frames: impl IntoIterator<Item = Pfn>) {
    frames.into_iter().for_each(|frame| hosted.service().__free_pages(frame, Order::ZERO));
}

/// A thread with a set of its own, which does one thing when it is told to.
struct Worker<T> {
    start: mpsc::Sender<()>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Worker<T> {
    fn new(hosted: &'static Hosted, body: impl FnOnce() -> T + Send + 'static) -> Self {
        let (start, started) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            assert!(hosted.run_on(CpuId(0)), "there is memory for a set");
            ready.send(()).expect("the maker listens");
            started.recv().expect("the maker starts it");
            body()
        });
        is_ready.recv().expect("the worker has its set");
        Self { start, thread }
    }

    /// Lets it go, and returns when it is short of memory and queues.
    fn start_and_see_it_wait(&self, hosted: &'static Hosted) {
        let before = hosted.service().event_count(Event::DirectReclaim);
        self.start.send(()).expect("the worker listens");
        until(|| hosted.service().event_count(Event::DirectReclaim) > before);
    }

    fn join(self) -> T {
        self.thread.join().expect("a worker has no reason to panic")
    }
}

/// A worker that takes a frame, whatever it takes to get one.
fn one_that_must_not_fail(hosted: &'static Hosted) -> Worker<Pfn> {
    Worker::new(hosted, || hosted.service().alloc_pages(NOFAIL, Order::ZERO).expect("it must not fail"))
}

#[test]
fn frames_are_handed_to_those_who_wait_longest_first() {
    let hosted = small_machine();
    let workers: Vec<_> = (0..4).map(|_| one_that_must_not_fail(hosted)).collect();
    let mut hoard = hoard(hosted, GREEDY);
    for worker in &workers {
        worker.start_and_see_it_wait(hosted);
    }
    for (at, worker) in workers.into_iter().enumerate() {
        assert_eq!(hosted.service().event_count(Event::HandedOver), at as u64);
        let freed = hoard.pop().expect("there is more to free");
        free(hosted, [freed]);
        assert_eq!(worker.join(), freed, "the frame of worker {at}");
        hoard.push(freed);
    }
    free(hosted, hoard);
    assert_all_returned(hosted);
}

#[test]
fn a_newcomer_takes_nothing_past_one_who_waits() {
    let hosted = small_machine();
    let service = hosted.service();
    let first = Worker::new(hosted, || hosted.service().alloc_pages(NOFAIL, Order::new(2).expect("an order")));
    let mut blocks: Vec<_> =
        std::iter::from_fn(|| service.alloc_pages(GREEDY, Order::new(2).expect("an order"))).collect();
    let hoard = hoard(hosted, GREEDY);
    first.start_and_see_it_wait(hosted);
    // Only then does it get part of the reserve, which is all that is left.
    until(|| service.event_count(Event::Wait) > 2 * u64::from(MAX_ROUNDS));
    let freed = blocks.pop().expect("there are blocks");
    service.__free_pages(freed, Order::new(2).expect("an order"));
    assert_eq!(service.alloc_pages(GREEDY, Order::ZERO), None, "the block is another's");
    assert_eq!(first.join(), Some(freed));
    blocks.push(freed);
    for block in blocks {
        service.__free_pages(block, Order::new(2).expect("an order"));
    }
    free(hosted, hoard);
    assert_all_returned(hosted);
}

#[test]
fn an_object_freed_ends_the_wait_for_one_of_its_cache() {
    let hosted = small_machine();
    let service = hosted.service();
    let waiter = Worker::new(hosted, || hosted.service().kmalloc(64, NOFAIL).addr());
    let objects: Vec<_> = std::iter::from_fn(|| Some(service.kmalloc(64, GREEDY)).filter(|it| !it.is_null())).collect();
    let hoard = hoard(hosted, GREEDY);
    waiter.start_and_see_it_wait(hosted);
    let freed = objects[objects.len() / 2];
    let handed_over = service.event_count(Event::HandedOver);
    // SAFETY: nobody uses the object.
    unsafe { service.kfree(freed) };
    assert_eq!(waiter.join(), freed.addr());
    assert_eq!(service.event_count(Event::HandedOver), handed_over, "no frame was needed");
    // SAFETY: each is freed once; the waiter's is the one freed before, in use again.
    objects.into_iter().for_each(|object| unsafe { service.kfree(object) });
    free(hosted, hoard);
    assert_all_returned(hosted);
}

/// Frames that can be given up.
#[derive(Default)]
struct Cache {
    hosted: Option<&'static Hosted>,
    frames: Mutex<Vec<Pfn>>,
    given_up: AtomicUsize,
    /// Threads in `scan`, and the most there were at once in one thread.
    depth: AtomicUsize,
    deepest: AtomicUsize,
    /// What allocations made by `scan` came to.
    allocated: AtomicUsize,
}

impl Cache {
    /// Everything there is above the minimum, in a cache that is registered.
    fn of_everything(hosted: &'static Hosted) -> &'static Self {
        let frames = hoard(hosted, Gfp::NOWAIT | Gfp::NOWARN);
        let cache: &'static Self =
            Box::leak(Box::new(Self { hosted: Some(hosted), frames: Mutex::new(frames), ..Self::default() }));
        hosted.service().register_shrinker(cache).expect("there is room for a shrinker");
        cache
    }

    fn hosted(&self) -> &'static Hosted {
        self.hosted.expect("set by the maker")
    }
}

impl Shrinker for Cache {
    fn count(&self, _control: &ShrinkControl) -> usize {
        self.frames.lock().expect("no holder panics").len()
    }

    fn scan(&self, _control: &ShrinkControl, objects: usize) -> Option<usize> {
        self.deepest.fetch_max(self.depth.fetch_add(1, SeqCst) + 1, SeqCst);
        let service = self.hosted().service();
        // As one that writes to a disk would.
        if let Some(frame) = service.alloc_pages(Gfp::KERNEL, Order::ZERO) {
            self.allocated.fetch_add(1, SeqCst);
            service.__free_pages(frame, Order::ZERO);
        }
        let given_up = {
            let mut frames = self.frames.lock().expect("no holder panics");
            let rest = frames.len().saturating_sub(objects);
            frames.split_off(rest)
        };
        let count = given_up.len();
        free(self.hosted(), given_up);
        self.given_up.fetch_add(count, SeqCst);
        self.depth.fetch_sub(1, SeqCst);
        Some(count)
    }
}

#[test]
fn a_shrinker_that_allocates_uses_the_reserves_and_is_not_entered_again() {
    let hosted = small_machine();
    let cache = Cache::of_everything(hosted);
    let frame = hosted.service().alloc_pages(Gfp::KERNEL, Order::ZERO).expect("the cache gives up what is needed");
    assert!(cache.given_up.load(SeqCst) > 0);
    assert_eq!(cache.deepest.load(SeqCst), 1);
    assert!(cache.allocated.load(SeqCst) > 0, "there was nothing above the minimum, but there are reserves");
    free(hosted, [frame]);
    free(hosted, std::mem::take(&mut *cache.frames.lock().expect("no holder panics")));
    assert_all_returned(hosted);
}

/// A shrinker that is busy until it is told otherwise.
#[derive(Default)]
struct Slow {
    inside: AtomicBool,
    may_go: AtomicBool,
}

impl Shrinker for Slow {
    fn count(&self, _control: &ShrinkControl) -> usize {
        1
    }

    fn scan(&self, _control: &ShrinkControl, _objects: usize) -> Option<usize> {
        self.inside.store(true, SeqCst);
        until(|| self.may_go.load(SeqCst));
        self.inside.store(false, SeqCst);
        None
    }
}

#[test]
fn a_shrinker_that_is_at_work_is_unregistered_when_it_is_done() {
    let hosted = small_machine();
    let service = hosted.service();
    let slow: &'static Slow = Box::leak(Box::default());
    let id = service.register_shrinker(slow).expect("there is room");
    let short = one_that_must_not_fail(hosted);
    let unregisters = Worker::new(hosted, move || {
        hosted.service().unregister_shrinker(id).expect("it is registered");
        slow.inside.load(SeqCst)
    });
    // The limit leaves out what reclaims: nobody must ask the shrinker yet.
    let hoard = hoard(hosted, Gfp::ATOMIC | Gfp::NOWARN);
    short.start_and_see_it_wait(hosted);
    until(|| slow.inside.load(SeqCst));
    unregisters.start.send(()).expect("the worker listens");
    (0..1000).for_each(|_| thread::yield_now());
    assert!(!unregisters.thread.is_finished());
    slow.may_go.store(true, SeqCst);
    assert!(!unregisters.join(), "the shrinker was still at work");
    free(hosted, hoard);
    free(hosted, [short.join()]);
    assert_all_returned(hosted);
}

#[test]
fn balancing_goes_to_the_high_watermark_and_wakes_nobody_without_need() {
    let hosted = small_machine();
    let service = hosted.service();
    let woken = || service.event_count(Event::BalancerWoken);
    let some: Vec<_> = (0..100).filter_map(|_| service.alloc_pages(Gfp::KERNEL, Order::ZERO)).collect();
    assert_eq!(woken(), 0, "there is memory enough");
    free(hosted, some);
    let cache = Cache::of_everything(hosted);
    assert_eq!(woken(), 1, "the node fell below its low watermark");
    assert!(service.balance(NodeId(0)));
    assert_eq!((service.event_count(Event::BalancerDone), service.event_count(Event::DirectReclaim)), (1, 0));
    // From high to low nobody is woken.
    let given_up = cache.given_up.load(SeqCst);
    let frame = service.alloc_pages(Gfp::KERNEL, Order::ZERO).expect("the node is balanced");
    assert_eq!((woken(), cache.given_up.load(SeqCst)), (1, given_up));
    free(hosted, [frame]);
    free(hosted, std::mem::take(&mut *cache.frames.lock().expect("no holder panics")));
    assert_all_returned(hosted);
}

#[test]
fn a_node_that_nobody_could_help_is_balanced_again_for_a_new_shrinker() {
    let hosted = small_machine();
    let service = hosted.service();
    let hoard = hoard(hosted, Gfp::NOWAIT | Gfp::NOWARN);
    (0..MAX_ROUNDS).for_each(|_| assert!(!service.balance(NodeId(0)), "there is nobody to ask"));
    let woken = || service.event_count(Event::BalancerWoken);
    let before = woken();
    free(hosted, service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::ZERO));
    assert_eq!(woken(), before, "it was given up");
    let cache: &'static Cache = Box::leak(Box::new(Cache { hosted: Some(hosted), ..Cache::default() }));
    service.register_shrinker(cache).expect("there is room for a shrinker");
    assert_eq!(woken(), before + 1);
    free(hosted, hoard);
    assert_all_returned(hosted);
}

#[test]
fn a_balancing_thread_works_before_anybody_has_to_wait() {
    let hosted = small_machine();
    hosted.start_balancers();
    let cache = Cache::of_everything(hosted);
    // It may have been at its wits' end just when the cache was registered: whoever asks next wakes it again.
    until(|| {
        let frame = hosted.service().alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::ZERO);
        free(hosted, frame);
        hosted.service().event_count(Event::BalancerDone) > 0
    });
    assert!(cache.given_up.load(SeqCst) > 0);
    assert_eq!(hosted.service().event_count(Event::DirectReclaim), 0);
    free(hosted, std::mem::take(&mut *cache.frames.lock().expect("no holder panics")));
}

/// How many blocks are held, and the most there were since each of four threads began to watch: a request may fail for
/// want of blocks that others let go of before it returns.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: [AtomicUsize; 4],
}

impl Held {
    fn watch(&self, thread: usize) {
        self.most[thread].store(0, SeqCst);
        // What is added from here on is noted by whoever adds it.
        self.most[thread].fetch_max(self.now.load(SeqCst), SeqCst);
    }

    fn most_since(&self, thread: usize) -> usize {
        self.most[thread].load(SeqCst)
    }

    fn add_one(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.iter().for_each(|most| {
            most.fetch_max(now, SeqCst);
        });
    }
}

/// Blocks that the sets of four threads and of the test's own may keep from each other, and those on their way.
const CACHED: usize = 5 * 8 + 4;

#[test]
fn of_threads_that_want_more_than_there_is_none_fails_without_a_cause() {
    const ORDER: Order = Order::new(3).expect("an order");
    let hosted = small_machine();
    let service = hosted.service();
    let allocate = |gfp| service.alloc_pages(gfp | Gfp::NOWARN, ORDER);
    let held: &'static Held = Box::leak(Box::default());
    let failures: &'static AtomicUsize = Box::leak(Box::default());
    let free = |block| service.__free_pages(block, ORDER);
    let all: Vec<_> = std::iter::from_fn(|| allocate(Gfp::KERNEL | Gfp::NORETRY)).collect();
    let capacity = all.len();
    all.into_iter().for_each(free);
    let let_go = move |block| {
        free(block);
        held.now.fetch_sub(1, SeqCst);
    };
    let fight = move |thread: usize| {
        let seed = 7 * thread;
        move || {
            let mut mine = Vec::new();
            for round in 0..250 {
                // Most give up at once, for those who try hard take their time to fail.
                let gfp = if round % 25 == 0 { Gfp::KERNEL } else { Gfp::KERNEL | Gfp::NORETRY };
                // Each wants a third of all there is, a share at a time, and lets go of it in shares of another size.
                let share = (seed + round) % 17 + capacity / 60;
                for _ in 0..share {
                    held.watch(thread);
                    let Some(block) = allocate(gfp) else {
                        failures.fetch_add(1, SeqCst);
                        let held = held.most_since(thread);
                        assert!(held + CACHED > capacity, "failed with {held} of {capacity} blocks held");
                        break;
                    };
                    mine.push(block);
                    held.add_one();
                }
                let keep =
                    if mine.len() > capacity / 3 { capacity / 5 } else { mine.len() - share.min(mine.len()) / 3 };
                mine.drain(keep..).for_each(let_go);
            }
            mine.into_iter().for_each(let_go);
        }
    };
    let workers: Vec<_> = (0..4).map(|thread| Worker::new(hosted, fight(thread))).collect();
    for worker in &workers {
        worker.start.send(()).expect("the worker listens");
    }
    workers.into_iter().for_each(Worker::join);
    assert!(hosted.service().event_count(Event::DirectReclaim) > 0, "nobody was ever short of memory");
    assert!(failures.load(SeqCst) > 0, "there was enough for all");
    assert_all_returned(hosted);
}

#[test]
fn when_nobody_is_left_who_could_free_anything_the_service_says_who_waits() {
    let hosted = small_machine();
    let service = hosted.service();
    let _hoard = hoard(hosted, GREEDY);
    // The instance is not used any more after the panic: its waiter was on the stack that the panic left.
    let end = std::panic::catch_unwind(AssertUnwindSafe(|| service.alloc_pages(NOFAIL, Order::ZERO)));
    let message = *end.expect_err("nobody frees anything").downcast::<String>().expect("a panic with a sentence");
    assert!(message.starts_with("out of memory: no thread can run but those that wait"), "{message}");
    let waiters = message.lines().filter(|line| line.ends_with("waits for order 0 with GFP_KERNEL|__GFP_NOFAIL"));
    assert_eq!(waiters.count(), 1, "{message}");
}
