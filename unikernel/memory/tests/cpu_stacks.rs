//! The stacks behind the magazines of CPUs: what stays with a CPU, what another can have of it, and that nothing is
//! lost.

use std::collections::BTreeSet;

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{CpuId, FRAME_BYTES, FreeError, Gfp, Order, Service, SlabFlags, Topology};

const MIB: u64 = 1 << 20;

/// A node with two CPUs, which have stacks of some thousand objects.
fn two_cpus(bytes: u64) -> &'static Hosted {
    let topology = Topology::builder().node(bytes, 2).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

fn allocate(service: &Service<HostedMachine>, count: usize, size: usize) -> Vec<*mut u8> {
    (0..count).map(|_| service.kmalloc(size, Gfp::KERNEL)).collect()
}

fn free(service: &Service<HostedMachine>, objects: impl IntoIterator<Item = *mut u8>) {
    for object in objects {
        // SAFETY: the test allocated the object, and frees it once.
        unsafe { service.kfree(object) };
    }
}

/// Runs a test's part on that CPU.
fn on<R>(hosted: &'static Hosted, cpu: u16, work: impl FnOnce(&'static Service<HostedMachine>) -> R) -> R {
    assert!(hosted.run_on(CpuId(cpu)));
    work(hosted.service())
}

#[track_caller]
fn assert_books_balance(service: &Service<HostedMachine>) {
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.slab_in_use, service.count_objects_in_use(), "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

#[test]
fn a_cpu_gets_back_what_it_freed_and_none_of_its_pages_is_used_by_another() {
    for size in [8, 64, 200, 1024] {
        let hosted = two_cpus(4096 * MIB);
        let in_turn = || {
            // A part at a time, so that each has the chance to take what the other left.
            let mut objects = [Vec::new(), Vec::new()];
            for _ in 0..8 {
                for (cpu, objects) in (0..).zip(&mut objects) {
                    objects.extend(on(hosted, cpu, |service| allocate(service, 100, size)));
                }
            }
            objects
        };
        let give_back = |objects: [Vec<*mut u8>; 2]| {
            for (cpu, objects) in (0..).zip(objects) {
                on(hosted, cpu, |service| free(service, objects));
            }
        };
        let addresses = |objects: &[*mut u8]| objects.iter().map(|object| object.addr()).collect::<BTreeSet<_>>();
        let pages =
            |objects: &[*mut u8]| objects.iter().map(|object| object.addr() / FRAME_BYTES).collect::<BTreeSet<_>>();
        let first = in_turn();
        assert!(pages(&first[0]).is_disjoint(&pages(&first[1])), "{size} bytes");
        let had = [addresses(&first[0]), addresses(&first[1])];
        give_back(first);
        for _ in 0..4 {
            let again = in_turn();
            for (had, again) in had.iter().zip(&again) {
                let new = addresses(again).difference(had).count();
                assert!(new <= 64, "{new} objects of {size} bytes are not those that were freed here");
                assert!(had.len() == 800 && again.len() == 800);
            }
            assert!(pages(&again[0]).is_disjoint(&pages(&again[1])), "{size} bytes");
            give_back(again);
        }
        assert_books_balance(hosted.service());
    }
}

#[test]
fn what_one_cpu_allocates_and_another_frees_comes_back_by_way_of_the_depot() {
    let hosted = two_cpus(1024 * MIB);
    let slabs = || hosted.service().slabs().map(|slab| slab.slabs).sum::<u64>();
    let mut most = 0;
    for round in 0..50 {
        let objects = on(hosted, 0, |service| allocate(service, 2000, 64));
        on(hosted, 1, |service| free(service, objects));
        // What the freeing CPU and the depot may keep, the first few rounds fill.
        if round < 25 {
            most = slabs();
        }
        assert!(slabs() <= most, "{} slabs after round {round}, there were {most}", slabs());
    }
    assert_books_balance(hosted.service());
}

#[test]
fn a_double_free_is_caught_while_the_object_is_on_another_cpus_stack() {
    let hosted = two_cpus(1024 * MIB);
    let objects = on(hosted, 0, |service| {
        let objects = allocate(service, 1000, 64);
        free(service, objects.iter().copied());
        objects
    });
    on(hosted, 1, |service| {
        for object in objects {
            // SAFETY: refused, which is the test.
            assert_eq!(unsafe { service.try_kfree(object) }, Err(FreeError::DoubleFree(object.addr())));
        }
        assert_books_balance(service);
    });
}

#[test]
fn before_an_allocation_fails_it_takes_from_another_cpus_stack() {
    const COUNT: usize = 400;
    let hosted = two_cpus(256 * MIB);
    let freed: BTreeSet<_> = on(hosted, 0, |service| {
        let objects = allocate(service, COUNT, 64);
        free(service, objects.iter().copied());
        objects.into_iter().map(<*mut u8>::addr).collect()
    });
    on(hosted, 1, |service| {
        let nowait = Gfp::NOWAIT | Gfp::NOWARN;
        let pages: Vec<_> = std::iter::from_fn(|| service.alloc_pages(nowait, Order::ZERO)).collect();
        let objects: Vec<_> =
            std::iter::repeat_with(|| service.kmalloc(64, nowait)).take_while(|it| !it.is_null()).collect();
        let had = objects.iter().filter(|object| freed.contains(&object.addr())).count();
        // But what is in the other's magazine, which nobody else may touch.
        assert!((COUNT - 58..COUNT).contains(&had), "{had} of the {COUNT} that the other CPU freed");
        free(service, objects);
        for page in pages {
            service.__free_pages(page, Order::ZERO);
        }
        assert_books_balance(service);
    });
}

#[test]
fn stacks_are_emptied_from_another_cpu_and_their_memory_is_given_back() {
    let hosted = two_cpus(1024 * MIB);
    for size in [8, 64, 96, 700, 4096] {
        on(hosted, 0, |service| free(service, allocate(service, 600, size)));
    }
    on(hosted, 1, |service| {
        let before = service.statistics();
        assert!(before.depots > 0 && service.metadata().stacks > 0, "{before:#?}");
        service.shrink_depots();
        let (rows, metadata) = (service.statistics(), service.metadata());
        assert_eq!((rows.depots, metadata.stacks), (0, 0), "{rows:#?}");
        assert!(rows.free > before.free);
        assert_books_balance(service);
    });
    // The CPU whose they were goes on.
    on(hosted, 0, |service| free(service, allocate(service, 600, 64)));
    assert_books_balance(hosted.service());
}

#[test]
fn a_cpu_that_drains_keeps_nothing_on_its_stacks() {
    let hosted = two_cpus(1024 * MIB);
    let objects = on(hosted, 0, |service| {
        let objects = allocate(service, 1000, 64);
        free(service, objects.iter().copied());
        service.drain_local();
        objects.into_iter().map(<*mut u8>::addr).collect::<BTreeSet<_>>()
    });
    on(hosted, 1, |service| {
        let others = allocate(service, 1000, 64);
        let had = others.iter().filter(|object| objects.contains(&object.addr())).count();
        // The slabs have 24 objects more than were allocated.
        assert!(had >= 1000 - 24, "the depot has what the other CPU gave back, but {had} of 1000 are from there");
        free(service, others);
        assert_books_balance(service);
    });
}

#[test]
fn a_cache_whose_objects_are_on_another_cpus_stack_is_destroyed_and_its_id_given_again() {
    let hosted = two_cpus(1024 * MIB);
    let service = hosted.service();
    let own = SlabFlags::NO_MERGE;
    for round in 0..3 {
        let size = 64 + 32 * round;
        let cache = service.kmem_cache_create("stacked", size, 0, own, None).expect("memory is free");
        on(hosted, 0, |service| {
            let objects: Vec<_> = (0..1000).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
            // SAFETY: each is an object of the cache, freed once.
            objects.into_iter().for_each(|object| unsafe { service.kmem_cache_free(&cache, object) });
        });
        on(hosted, 1, |service| {
            let slab = service.slabs().find(|slab| slab.name().to_string() == "stacked").expect("it is listed");
            assert!(slab.in_depots > 900, "on the other CPU's stack: {slab:?}");
            service.kmem_cache_destroy(cache).expect("nothing is in use");
            assert!(service.slabs().all(|slab| slab.name().to_string() != "stacked"), "it is gone");
        });
    }
    assert_books_balance(service);
}

#[test]
fn the_stacks_of_a_cpu_take_no_more_memory_than_their_part_whatever_is_freed() {
    // A forty-thousandth of half a gibibyte.
    let hosted = two_cpus(1024 * MIB);
    on(hosted, 0, |service| {
        let objects: Vec<_> = (8..=512).step_by(8).flat_map(|size| allocate(service, 500, size)).collect();
        let magazines = service.statistics().per_cpu_magazines;
        free(service, objects);
        let rows = service.statistics();
        assert!(rows.depots + rows.per_cpu_magazines > magazines);
        // The depots have theirs, of the same size for each cache as all of a CPU's.
        let part = 512 * MIB / 40_000;
        let depots = service.slabs().map(|slab| slab.in_depots.div_ceil(62) * 512).sum::<u64>();
        let stacks = service.metadata().stacks;
        assert!(stacks <= part + depots + 60 * 512, "{stacks} bytes, of which {depots} at most are the depots'");
    });
    assert_books_balance(hosted.service());
}

#[test]
fn what_other_caches_have_on_a_cpus_stacks_makes_room_for_one_that_is_used() {
    let hosted = two_cpus(1024 * MIB);
    on(hosted, 0, |service| {
        let objects: Vec<_> = (8..=512).step_by(8).flat_map(|size| allocate(service, 200, size)).collect();
        free(service, objects);
        let batch = || free(service, allocate(service, 900, 500));
        (0..4).for_each(|_| batch());
        let before = service.lock_counts();
        (0..4).for_each(|_| batch());
        let taken = service.lock_counts().since(before);
        assert_eq!(taken.depots, 0, "its objects stay on the CPU: {taken:?}");
        assert_books_balance(service);
    });
}
