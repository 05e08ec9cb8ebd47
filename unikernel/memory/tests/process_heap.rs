//! The `ProcessHeap`, and instances of the other kind beside it: each keeps to its own sets and objects, through
//! threads' ends and forks.

#[path = "support/child.rs"]
mod child;

use std::alloc::{GlobalAlloc, Layout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use quarry_memory::hosted::{Hosted, ProcessHeap, ProcessMachine};
use quarry_memory::{CpuId, Gfp, Machine, Order, Service, StartError, Topology};

static HEAP: ProcessHeap = ProcessHeap;

/// Tests take turns: the instance is the process's, and what each counts is to be its own.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn other() -> &'static Hosted {
    let topology = Topology::builder().node(32 << 20, 4).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

/// An object whose every byte is `mark`.
fn object<M: Machine>(service: &Service<M>, size: usize, mark: u8) -> *mut u8 {
    let object = service.kmalloc(size, Gfp::KERNEL);
    assert!(!object.is_null());
    // SAFETY: the object is new and that large.
    unsafe { object.write_bytes(mark, size) };
    object
}

/// Frees an object, and tells whether every byte was `mark` still.
fn free<M: Machine>(service: &Service<M>, object: *mut u8, size: usize, mark: u8) -> bool {
    // SAFETY: the tests free objects of theirs, once, that are that large.
    unsafe {
        let whole = std::slice::from_raw_parts(object, size).iter().all(|&byte| byte == mark);
        service.kfree(object);
        whole
    }
}

#[track_caller]
fn assert_books_balance<M: Machine>(service: &Service<M>) {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!((rows.slab_in_use, rows.large, rows.pages_in_use), (0, 0, 0), "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn every_value_is_the_same_instance() {
    static ANOTHER: ProcessHeap = ProcessHeap;
    let _turn = turn();
    for service in [ANOTHER.service(), ProcessHeap.service(), Box::leak(Box::new(HEAP)).service()] {
        assert!(std::ptr::eq(service, HEAP.service()));
    }
    // Started is started, by whatever name.
    assert_eq!((HEAP.start(), ANOTHER.start()), (Ok(()), Ok(())));
    let layout = Layout::from_size_align(3000, 64).expect("a layout");
    // SAFETY: the layout is not of size 0; the block is used up to its size and freed once.
    unsafe {
        let block = HEAP.alloc_zeroed(layout);
        assert!(!block.is_null() && block.addr().is_multiple_of(64));
        assert!(std::slice::from_raw_parts(block, 3000).iter().all(|&byte| byte == 0));
        let block = ANOTHER.realloc(block, layout, 5 << 20);
        assert!(!block.is_null());
        ProcessHeap.dealloc(block, Layout::from_size_align(5 << 20, 64).expect("a layout"));
    }
    assert_books_balance(HEAP.service());
}

/// Whether huge pages are asked for behind the mapping that holds an address (`hg` in proc(5)'s `VmFlags`).
fn prefers_huge_pages(address: usize) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("the kernel tells of mappings");
    let start_and_end = |line: &str| -> Option<(usize, usize)> {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    let mut lines = smaps.lines();
    let holds = |line: &str| start_and_end(line).is_some_and(|(start, end)| (start..end).contains(&address));
    lines.find(|line| holds(line)).expect("the address is mapped");
    lines.find(|line| line.starts_with("VmFlags:")).expect("each mapping has flags").contains(" hg")
}

#[test]
fn huge_pages_are_behind_what_a_small_program_does_not_use() {
    if !std::fs::exists("/sys/kernel/mm/transparent_hugepage").expect("there is a /sys") {
        return;
    }
    let _turn = turn();
    let object = object(HEAP.service(), 64, 1);
    let machine = HEAP.service().machine();
    let end = machine.direct_map()
        + HEAP.topology().memory().iter().map(|memory| memory.range.end).max().expect("some") as usize;
    assert!(!prefers_huge_pages(object.addr()), "the first section");
    assert!(prefers_huge_pages(object.addr() + (256 << 20)), "beyond it");
    assert!(!prefers_huge_pages(end - 1), "the last section");
    assert!(free(HEAP.service(), object, 64, 1));
}

#[test]
fn nobody_starts_its_service_a_second_time() {
    let _turn = turn();
    let service: &Service<ProcessMachine> = HEAP.service();
    assert_eq!(HEAP.start(), Ok(()));
    // SAFETY: no range is given.
    let again = unsafe { service.start(HEAP.topology(), std::iter::empty()) };
    assert_eq!(again, Err(StartError::AlreadyStarted));
}

#[test]
fn objects_of_one_kind_are_never_taken_by_the_other() {
    let _turn = turn();
    let other = other();
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                // More of a size than a set holds, so depots and slabs take part.
                for size in [8, 64, 200, 1024, 8192] {
                    let pairs: Vec<_> = (0..100)
                        .map(|_| (object(HEAP.service(), size, thread), object(other.service(), size, thread + 100)))
                        .collect();
                    for (of_process, of_other) in pairs {
                        assert!(free(HEAP.service(), of_process, size, thread));
                        assert!(free(other.service(), of_other, size, thread + 100));
                    }
                }
            });
        }
    });
    assert_books_balance(HEAP.service());
    assert_books_balance(other.service());
}

#[test]
fn an_object_of_the_other_kind_is_not_freed() {
    let _turn = turn();
    let other = other();
    let of_process = object(HEAP.service(), 64, 1);
    let of_other = object(other.service(), 64, 2);
    // SAFETY: the frees are what is tested; they free nothing.
    let wrong: [&dyn Fn(); 2] =
        [&|| unsafe { other.service().kfree(of_process) }, &|| unsafe { HEAP.service().kfree(of_other) }];
    for free in wrong {
        let told = catch_unwind(AssertUnwindSafe(free)).expect_err("it is no object of this instance");
        let told = told.downcast_ref::<String>().expect("a panic with a message");
        assert!(told.contains("which is no object"), "{told}");
    }
    assert!(free(HEAP.service(), of_process, 64, 1));
    assert!(free(other.service(), of_other, 64, 2));
}

#[test]
fn threads_leave_their_sets_of_both_kinds_to_later_ones() {
    let _turn = turn();
    let other = other();
    let sets = || [HEAP.service().metadata().sets, other.service().metadata().sets];
    let wave = || {
        let all_have_sets = Barrier::new(3);
        thread::scope(|scope| {
            let threads = [1, 2, 3].map(|mark| {
                let all_have_sets = &all_have_sets;
                scope.spawn(move || {
                    let objects = (object(HEAP.service(), 64, mark), object(other.service(), 64, mark));
                    all_have_sets.wait();
                    free(HEAP.service(), objects.0, 64, mark) && free(other.service(), objects.1, 64, mark)
                })
            });
            // A join waits for all of a thread's end, which the end of the scope does not.
            assert!(threads.map(|thread| thread.join().expect("nothing panics")).iter().all(|&whole| whole));
        });
    };
    wave();
    let after_the_first = sets();
    (0..100).for_each(|_| wave());
    assert_eq!(sets(), after_the_first);
    assert_books_balance(HEAP.service());
    assert_books_balance(other.service());
}

#[test]
fn a_thread_is_another_cpu_of_it_when_it_says_so() {
    let _turn = turn();
    assert!(HEAP.run_on(CpuId(5)));
    assert_eq!(HEAP.service().machine().cpu(), CpuId(5));
    let kept = object(HEAP.service(), 64, 7);
    HEAP.leave();
    // Whoever is that CPU next has what it cached.
    let cpu = thread::spawn(|| HEAP.run_on(CpuId(5)).then(|| HEAP.service().machine().cpu())).join();
    assert_eq!(cpu.expect("nothing panics"), Some(CpuId(5)));
    assert!(!HEAP.run_on(CpuId(HEAP.topology().cpus().len() as u16)));
    assert!(free(HEAP.service(), kept, 64, 7));
}

#[test]
fn both_kinds_are_whole_in_the_child_of_a_fork() {
    const BUSY: u8 = 3;
    let _turn = turn();
    let other = other();
    let stop = AtomicBool::new(false);
    let all_have_sets = Barrier::new(usize::from(BUSY) + 1);
    let kept = (object(HEAP.service(), 500, 90), object(other.service(), 500, 91));
    thread::scope(|scope| {
        for mark in 0..BUSY {
            let (stop, all_have_sets) = (&stop, &all_have_sets);
            scope.spawn(move || {
                let round = || {
                    let objects: Vec<_> = (0..60)
                        .map(|_| (object(HEAP.service(), 1024, mark), object(other.service(), 1024, mark)))
                        .collect();
                    let block = HEAP.alloc_pages(Order::ZERO).expect("memory is free");
                    HEAP.free_pages(block, Order::ZERO);
                    objects.into_iter().all(|(of_process, of_other)| {
                        free(HEAP.service(), of_process, 1024, mark) & free(other.service(), of_other, 1024, mark)
                    })
                };
                assert!(round());
                all_have_sets.wait();
                while !stop.load(Ordering::Relaxed) {
                    assert!(round());
                }
            });
        }
        all_have_sets.wait();
        let failed = (0..30).find_map(|_| child::in_a_fork(|| lives(other, kept)).err());
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, None, "the status of a child that failed");
    });
    assert!(free(HEAP.service(), kept.0, 500, 90));
    assert!(free(other.service(), kept.1, 500, 91));
}

/// What the child of a fork does: it has the forking thread only, and the sets of all that are gone.
fn lives(other: &'static Hosted, kept: (*mut u8, *mut u8)) -> bool {
    let pair = |mark| {
        let objects = (object(HEAP.service(), 1024, mark), object(other.service(), 1024, mark));
        free(HEAP.service(), objects.0, 1024, mark) && free(other.service(), objects.1, 1024, mark)
    };
    let live = || {
        let sets = || [HEAP.service().metadata().sets, other.service().metadata().sets];
        let inherited = sets();
        let thread = thread::spawn(move || pair(1));
        thread.join().expect("nothing panics")
            && sets() == inherited
            && pair(2)
            && HEAP.service().validate().is_ok()
            && other.service().validate().is_ok()
            && free(HEAP.service(), kept.0, 500, 90)
            && free(other.service(), kept.1, 500, 91)
    };
    // A panic would unwind into the test, which is the parent's.
    catch_unwind(AssertUnwindSafe(live)).unwrap_or(false)
}
