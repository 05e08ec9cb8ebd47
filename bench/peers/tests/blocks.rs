//! Every contestant hands out blocks that are writable, apart from all others and aligned; one test each, for each is
//! one allocator in the process.

use quarry_peers::buddy_slab::BuddySlab;
use quarry_peers::malloc::{Jemalloc, MallocSubject, Mimalloc, System};
use quarry_peers::quarry::Quarry;
use quarry_peers::{Contestant, Threads};
use quarry_suite::{Effort, ORDERS, Platform, Settings, Subject, plan, row_count};

/// Runs the suite with its checking passes over a subject, and looks at what is beyond them: page blocks are aligned to
/// their size.
fn check<S: Subject + Default>() {
    let settings = Settings {
        sizes: vec![1, 8, 24, 64, 1000, 2048, 4096, 8192],
        samples: 1,
        effort: Effort::Microseconds(20),
        ..Settings::default()
    };
    let threads = Threads::new(2);
    let mut rows = 0;
    Contestant::new::<S>(None).run(threads, &settings, &mut |row| {
        assert_eq!(row.errors, 0, "{}: {}", S::NAME, row.case);
        rows += 1;
    });
    assert_eq!(rows, row_count(&plan(threads, S::FEATURES, &settings)));
    threads.on_cpus(1, |_| page_blocks_are_aligned(&S::default()));
}

fn page_blocks_are_aligned(subject: &impl Subject) {
    for order in ORDERS {
        let blocks: Vec<_> = (0..3).map(|_| subject.allocate_pages(order).expect("there is memory")).collect();
        for block in blocks {
            assert!(subject.address(&block).is_multiple_of(4096 << order), "order {order}");
            subject.free_pages(block, order);
        }
    }
}

#[test]
fn quarry_hands_out_sound_blocks() {
    check::<Quarry>();
}

#[test]
fn mimalloc_hands_out_sound_blocks() {
    check::<MallocSubject<Mimalloc>>();
}

#[test]
fn jemalloc_hands_out_sound_blocks() {
    check::<MallocSubject<Jemalloc>>();
}

#[cfg(feature = "snmalloc")]
#[test]
fn snmalloc_hands_out_sound_blocks() {
    check::<MallocSubject<quarry_peers::malloc::Snmalloc>>();
}

#[test]
fn buddy_slab_hands_out_sound_blocks() {
    check::<BuddySlab>();
}

#[test]
fn the_system_hands_out_sound_blocks() {
    check::<MallocSubject<System>>();
}
