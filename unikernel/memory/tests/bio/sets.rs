//! Sets: what they guarantee, to whom, and what their rescuer is for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread::JoinHandle;

use quarry_memory::bio::{BioSetError, BiosetFlags, Operation, Splitting, Stripe};
use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, Gfp, MempoolError};

use crate::support::{
    AllMemory, Buffer, Device, End, Ends, SECTOR, TestSet, aim, assert_nothing_in_use, disk, end_disk, exit, hosted,
    service, set,
};

#[test]
fn without_a_set_a_bio_is_kmallocs_and_fails_as_that_does() {
    let service = service();
    for (wanted, got) in [(0, 4), (4, 4), (5, 5), (1024, 1024)] {
        let bio = service.bio_alloc_bioset(Gfp::KERNEL, wanted, None).expect("memory is free");
        assert_eq!(bio.capacity(), got);
    }
    assert!(service.bio_alloc_bioset(Gfp::KERNEL, 1025, None).is_none());
    let all = AllMemory::take(service);
    assert!(service.bio_kmalloc(0, Gfp::NOWAIT | Gfp::NOWARN).is_none());
    assert!(service.bio_alloc_bioset(Gfp::KERNEL | Gfp::NOWARN, 0, None).is_none());
    drop(all);
    assert_nothing_in_use(service);
}

#[test]
fn vectors_come_in_classes_and_at_most_256() {
    let service = service();
    let with = set(service, 2, BiosetFlags::NEED_BVECS);
    for (wanted, got) in [(0, 4), (4, 4), (5, 16), (17, 64), (65, 128), (129, 256), (256, 256)] {
        let bio = service.bio_alloc_bioset(Gfp::KERNEL, wanted, Some(&with)).expect("memory is free");
        assert_eq!(bio.capacity(), got);
    }
    assert!(service.bio_alloc_bioset(Gfp::KERNEL, 257, Some(&with)).is_none());
    let without = set(service, 1, BiosetFlags::empty());
    assert!(service.bio_alloc_bioset(Gfp::KERNEL, 4, Some(&without)).is_some());
    assert!(service.bio_alloc_bioset(Gfp::KERNEL, 5, Some(&without)).is_none());
    exit(service, with);
    exit(service, without);
    assert_nothing_in_use(service);
}

#[test]
fn who_may_not_wait_gets_what_is_in_reserve_and_then_none() {
    let service = service();
    let small = set(service, 3, BiosetFlags::empty());
    let memory = AllMemory::take(service);
    let quick = || service.bio_alloc_bioset(Gfp::NOWAIT | Gfp::NOWARN, 0, Some(&small));
    let mut bios: Vec<_> = std::iter::from_fn(quick).collect();
    assert_eq!(bios.len(), 3, "as many as are in reserve");
    bios.pop();
    let again = quick();
    assert!(again.is_some() && quick().is_none(), "one that came back, and no more");
    drop((bios, again));
    drop(memory);
    exit(service, small);
    assert_nothing_in_use(service);
}

#[test]
fn the_front_padding_keeps_a_drivers_value_of_the_type_it_was_given() {
    let service = service();
    let padded = service.bioset_init("padded", 1, 20, BiosetFlags::empty()).expect("memory is free");
    let mut bio = service.bio_alloc_bioset(Gfp::KERNEL, 0, Some(&padded)).expect("memory is free");
    assert_eq!(bio.front::<u64>(), None);
    assert!(bio.set_front([7u64, 8, 9]), "20 bytes are rounded up to whole words");
    assert_eq!((bio.front(), bio.front::<u64>()), (Some(&[7u64, 8, 9]), None));
    assert!(!bio.set_front([0u64; 4]) && bio.front() == Some(&[7u64, 8, 9]));
    bio.reset().expect("nobody else uses it");
    assert_eq!(bio.front(), Some(&[7u64, 8, 9]), "what is the driver's is not reset");
    drop(bio);
    assert!(!service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free").set_front(1u8));
    exit(service, padded);
    assert_nothing_in_use(service);
}

#[test]
fn what_a_set_keeps_back_is_in_the_row_of_pools() {
    let service = service();
    let nothing = service.statistics();
    let with = set(service, 3, BiosetFlags::NEED_BVECS);
    let rows = service.statistics();
    assert!(rows.adds_up() && rows.pool > nothing.pool + 3 * 4096, "{rows:#?}");
    let all = AllMemory::take(service);
    let bios: Vec<_> =
        std::iter::from_fn(|| service.bio_alloc_bioset(Gfp::NOWAIT | Gfp::NOWARN, 256, Some(&with))).collect();
    assert!(bios.len() >= 3, "{} bios", bios.len());
    let rows = service.statistics();
    assert!(rows.adds_up() && rows.pool < 3 * 4096, "they are in use now: {rows:#?}");
    drop(bios);
    assert!(service.statistics().pool > 3 * 4096);
    drop(all);
    exit(service, with);
    assert_eq!(service.statistics().pool, 0);
    assert_nothing_in_use(service);
}

#[test]
fn a_set_needs_a_reserve_and_memory_for_it() {
    let service = service();
    let make = |reserve| service.bioset_init("test", reserve, 0, BiosetFlags::NEED_BVECS).err();
    assert_eq!(make(0), Some(BioSetError::Pool(MempoolError::NoReserve)));
    assert_eq!(make(1 << 20), Some(BioSetError::Pool(MempoolError::OutOfMemory)));
    assert_nothing_in_use(service);
}

#[test]
fn a_set_with_bios_in_use_does_not_end() {
    let service = service();
    let set = set(service, 1, BiosetFlags::empty());
    let bio = service.bio_alloc_bioset(Gfp::KERNEL, 0, Some(&set)).expect("memory is free");
    let error = service.bioset_exit(set).expect_err("a bio is out");
    assert_eq!(
        error.to_string(),
        "bioset_exit of the set \"test\", of which 1 bios are in use: wait until they have completed, and drop them"
    );
    drop(bio);
    exit(service, error.set);
    assert_nothing_in_use(service);
}

#[test]
fn a_caller_that_holds_one_bio_and_waits_for_another_is_told_of() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let hosted = hosted();
    let service = hosted.service();
    assert!(hosted.on_warning(&|message| TOLD.lock().expect("no test panics inside").push(message.to_string())));
    let told = || TOLD.lock().expect("no test panics inside").len();
    let disk = disk(service, 8);
    let set = service.bioset_init("pager", 2, 0, BiosetFlags::CHECKED).expect("memory is free");
    let device: Device = disk.get();
    let alloc = |gfp| {
        let bio = service.bio_alloc_bioset(gfp, 0, Some(&set)).expect("some are left");
        aim(bio, Operation::Read, device, 0)
    };
    for _ in 0..3 {
        service.submit_bio(alloc(Gfp::KERNEL));
        drop(alloc(Gfp::KERNEL));
        std::thread::scope(|scope| {
            let _held = alloc(Gfp::KERNEL);
            scope.spawn(|| drop(alloc(Gfp::KERNEL)));
        });
        let _held = alloc(Gfp::KERNEL);
        drop(alloc(Gfp::NOWAIT));
    }
    assert_eq!(told(), 0, "one at a time, or without waiting, is as it should be");
    let held = alloc(Gfp::KERNEL);
    for _ in 0..3 {
        drop(alloc(Gfp::NOIO));
    }
    drop(held);
    assert_eq!(
        TOLD.lock().expect("no test panics inside").as_slice(),
        [
            "bio_alloc_bioset: the caller holds an unsubmitted bio of the set \"pager\" and waits for another: submit the \
          first before, or threads can wait for each other for ever"
        ]
    );
    exit(service, set);
    end_disk(disk);
}

#[test]
fn who_may_wait_always_gets_a_bio_when_all_other_memory_is_gone() {
    const THREADS: usize = 4;
    let hosted = hosted();
    let service = hosted.service();
    let disk = disk(service, 64);
    let set = set(service, 2, BiosetFlags::NEED_BVECS);
    let buffers: Vec<_> = (0..THREADS).map(|_| Buffer::new(service, 0)).collect();
    let (start, done) = (Barrier::new(THREADS + 2), AtomicBool::new(false));
    disk.get().hold(true);
    std::thread::scope(|scope| {
        let (set, start, done, device) = (&set, &start, &done, disk.get());
        // Completes what is under way, the last first.
        let server = scope.spawn(move || {
            // A CPU needs memory, and so comes before all is gone.
            assert!(hosted.run_on(CpuId(0)));
            start.wait();
            start.wait();
            while !done.load(Ordering::Relaxed) {
                if !device.serve(|count| count - 1) {
                    std::thread::yield_now();
                }
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .zip(&buffers)
            .map(|(thread, buffer)| {
                scope.spawn(move || {
                    // A CPU needs memory, and so comes before all is gone.
                    assert!(hosted.run_on(CpuId(thread as u16)));
                    start.wait();
                    start.wait();
                    for round in 0..100 {
                        let vectors = [0, 5, 64, 256][round % 4];
                        let bio = service.bio_alloc_bioset(Gfp::NOIO, vectors, Some(set)).expect("it may wait");
                        let mut bio = aim(bio, Operation::Write, device, (thread * 8) as u64);
                        buffer.add_to(&mut bio, 0, 4096);
                        assert_eq!(service.submit_and_wait(bio).1, Ok(()));
                    }
                })
            })
            .collect();
        start.wait();
        let all = AllMemory::take(service);
        start.wait();
        let worked: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        server.join().expect("it only completes");
        drop(all);
        assert!(worked.iter().all(Result::is_ok), "each gets what it needs");
    });
    exit(service, set);
    drop(buffers);
    end_disk(disk);
    assert_nothing_in_use(service);
}

/// Runs a set's rescuer, as a host does.
fn start_rescuer(hosted: &'static Hosted, set: &TestSet) -> JoinHandle<()> {
    let rescuer = set.rescuer().expect("the set was made with one");
    let (started, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        hosted.run_on(CpuId(1));
        started.send(()).expect("it is waited for");
        rescuer.run();
        hosted.leave();
    });
    wait.recv().expect("the thread starts");
    thread
}

/// A stripe whose set has one bio in reserve is written to, eight chunks at once, when all other memory is gone.
fn write_eight_chunks(splitting: Splitting, rescue: bool) -> u64 {
    let hosted = hosted();
    let service = hosted.service();
    let disks = [disk(service, 32), disk(service, 32)];
    let flags = if rescue { BiosetFlags::NEED_RESCUER } else { BiosetFlags::empty() };
    let parts = set(service, 1, flags);
    let rescuer = rescue.then(|| start_rescuer(hosted, &parts));
    let members: [Device; 2] = [disks[0].get(), disks[1].get()];
    let stripe = Stripe::new(service, parts, &members, 4, splitting).unwrap_or_else(|(error, _)| panic!("{error}"));
    let stripe = End::new(stripe);
    let mut buffer = Buffer::new(service, 2);
    (1..).zip(buffer.bytes().chunks_mut(SECTOR)).for_each(|(number, sector)| sector.fill(number));
    let bios: Vec<_> = [Operation::Write, Operation::Read]
        .map(|operation| aim(service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free"), operation, stripe.get(), 0))
        .into();
    let all = AllMemory::take(service);
    for mut bio in bios {
        buffer.add_to(&mut bio, 0, 32 * SECTOR);
        let ends = Box::leak(Box::<Ends>::default());
        ends.note(&mut bio);
        service.submit_bio(bio);
        while ends.count() == 0 {
            std::thread::yield_now();
        }
        assert!(ends.succeeded());
    }
    drop(all);
    assert!((1..=32).zip(buffer.bytes().chunks(SECTOR)).all(|(number, sector)| sector == [number; SECTOR]));
    // SAFETY: no bio for it is left.
    let stripe = unsafe { stripe.end() };
    let helped = stripe.set().rescued();
    stripe.end().unwrap_or_else(|error| panic!("{error}"));
    if let Some(thread) = rescuer {
        thread.join().expect("it ends with its set");
    }
    drop(buffer);
    disks.into_iter().for_each(end_disk);
    assert_nothing_in_use(service);
    helped
}

#[test]
#[should_panic(expected = "waits for an element of a pool of kmalloc(")]
fn without_a_rescuer_a_driver_that_takes_several_bios_at_once_waits_for_itself() {
    write_eight_chunks(Splitting::AllAtOnce, false);
}

#[test]
fn with_a_rescuer_a_driver_may_take_several_bios_at_once() {
    assert!(write_eight_chunks(Splitting::AllAtOnce, true) > 0, "the rescuer was of use");
}

#[test]
fn a_driver_that_takes_one_bio_at_a_time_needs_no_rescuer() {
    assert_eq!(write_eight_chunks(Splitting::OneByOne, false), 0);
}

#[test]
fn a_rescuer_is_there_once_for_sets_made_with_one() {
    let hosted = hosted();
    let service = hosted.service();
    let without = set(service, 1, BiosetFlags::empty());
    assert!(without.rescuer().is_none());
    let with = set(service, 1, BiosetFlags::NEED_RESCUER);
    let rescuer = start_rescuer(hosted, &with);
    assert!(with.rescuer().is_none());
    exit(service, with);
    rescuer.join().expect("it ends with its set");
    exit(service, without);
    assert_nothing_in_use(service);
}
