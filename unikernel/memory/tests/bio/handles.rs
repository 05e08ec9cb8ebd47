//! What a bio's holder does with it, and that it completes once.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use proptest::prelude::*;
use quarry_memory::bio::{BioError, BioIsShared, BioStorage, BiosetFlags, INLINE_VECTORS, Operation, Vector};
use quarry_memory::{Gfp, Pfn};

use crate::cases::cases;
use crate::support::{
    Buffer, Ends, SECTOR, TestBio, TestService, aim, assert_nothing_in_use, disk, end_disk, exit, service, set,
    shared_service,
};

fn plain(service: &'static TestService) -> TestBio {
    service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free")
}

#[test]
fn pages_side_by_side_share_a_vector_and_others_take_one_each() {
    let service = service();
    let mut bio = plain(service);
    let buffer = Buffer::new(service, 3);
    buffer.add_to(&mut bio, 0, 4096);
    buffer.add_to(&mut bio, 4096, 512);
    let start = u64::from(buffer.block.0) * 4096;
    assert_eq!(bio.segments().collect::<Vec<_>>(), [Vector { address: start, length: 4608 }]);
    for page in [3, 5, 7] {
        buffer.add_to(&mut bio, page * 4096 - 2048, 512);
    }
    assert_eq!((bio.segments().count(), bio.bytes()), (INLINE_VECTORS, 4608 + 3 * 512));
    // SAFETY: it is not taken, and the bio never submitted.
    assert_eq!(unsafe { bio.add_page(buffer.block, 512, 0) }, 0, "there is no room for a fifth vector");
    // SAFETY: as above.
    assert_eq!(unsafe { bio.add_page(Pfn(buffer.block.0 + 6), 512, 2048 + 512) }, 512, "but behind the last one");
    // SAFETY: as above.
    assert_eq!(unsafe { bio.add_page(buffer.block, u32::MAX, 0) }, 0, "more bytes than can be counted");
    bio.reset().expect("nobody else uses it");
    // SAFETY: as above.
    assert_eq!(unsafe { bio.add_page(buffer.block, 0, 0) }, 0, "nothing takes no vector");
    buffer.add_to(&mut bio, 4096, 512);
    assert_eq!(bio.segments().count(), 1, "and does not hide what comes behind it");
    drop(bio);
    drop(buffer);
    assert_nothing_in_use(service);
}

#[test]
fn a_clone_and_a_split_use_the_vectors_of_their_source_which_nobody_changes_meanwhile() {
    let service = service();
    let clones = set(service, 4, BiosetFlags::empty());
    let mut bio = plain(service);
    let buffer = Buffer::new(service, 1);
    buffer.add_to(&mut bio, 0, 1024);
    buffer.add_to(&mut bio, 4096, 2048);
    let mut clone = bio.fast_clone(Gfp::KERNEL, &clones).expect("memory is free");
    assert!(clone.segments().eq(bio.segments()));
    // SAFETY: none of these is taken.
    unsafe {
        assert_eq!(clone.add_page(buffer.block, 512, 0), 0, "a clone has no vectors of its own");
        assert_eq!(bio.add_page(buffer.block, 512, 0), 0, "a source with clones keeps its vectors");
    }
    assert_eq!(bio.reset(), Err(BioIsShared));
    let first = clone.split(3, Gfp::KERNEL, &clones).expect("memory is free");
    assert_eq!((first.sectors(), clone.sectors(), clone.sector()), (3, 3, 3));
    drop(bio);
    let lengths: Vec<_> = first.segments().chain(clone.segments()).map(|piece| piece.length).collect();
    assert_eq!(lengths, [1024, 512, 1536], "the vectors stay when their source is gone");
    drop((first, clone));
    exit(service, clones);
    drop(buffer);
    assert_nothing_in_use(service);
}

#[test]
#[should_panic(expected = "both parts must have some")]
fn a_split_leaves_something_to_both() {
    let service = service();
    let clones = set(service, 1, BiosetFlags::empty());
    let mut bio = plain(service);
    Buffer::new(service, 0).add_to(&mut bio, 0, SECTOR);
    let _ = bio.split(1, Gfp::KERNEL, &clones);
}

#[test]
fn a_reset_bio_is_as_new_and_its_memory_is_kept_for_who_refers_to_it() {
    let service = service();
    let disk = disk(service, 8);
    let buffer = Buffer::new(service, 0);
    let mut bio = aim(plain(service), Operation::Write, disk.get(), 8);
    buffer.add_to(&mut bio, 0, SECTOR);
    let reference = bio.get();
    let (mut bio, result) = service.submit_and_wait(bio);
    assert_eq!((result, reference.status()), (Err(BioError::OutOfRange), Err(BioError::OutOfRange)));
    assert_eq!(bio.reset(), Err(BioIsShared));
    drop(reference);
    bio.reset().expect("nobody else uses it");
    assert_eq!((bio.bytes(), bio.sector(), bio.status(), bio.operation()), (0, 0, Ok(()), Operation::Read));
    assert!(bio.device().is_none() && bio.segments().next().is_none());
    buffer.add_to(&mut bio, 0, SECTOR);
    let reference = bio.get();
    service.bio_put(bio);
    assert_eq!(reference.status(), Ok(()));
    drop((reference, buffer));
    end_disk(disk);
    assert_nothing_in_use(service);
}

#[test]
fn a_bio_in_the_callers_memory_frees_nothing() {
    let service = service();
    let disk = disk(service, 8);
    let mut buffer = Buffer::new(service, 0);
    let storage = Box::leak(Box::new(BioStorage::new()));
    let vectors = Box::leak(Box::new([const { MaybeUninit::uninit() }; 7]));
    // SAFETY: both are leaked.
    let bio = unsafe { service.bio_init(NonNull::from(&mut *storage), vectors) };
    assert_eq!(bio.capacity(), 7);
    drop(bio);
    // SAFETY: the bio is gone.
    let bio = unsafe { service.bio_init(NonNull::from(storage), &mut []) };
    assert_eq!(bio.capacity(), INLINE_VECTORS);
    let mut bio = aim(bio, Operation::Read, disk.get(), 0);
    buffer.bytes().fill(1);
    buffer.add_to(&mut bio, 0, SECTOR);
    let (bio, result) = service.submit_and_wait(bio);
    assert_eq!(result, Ok(()));
    drop(bio);
    assert!(buffer.bytes()[..SECTOR].iter().all(|byte| *byte == 0) && buffer.bytes()[SECTOR] == 1);
    drop(buffer);
    end_disk(disk);
    assert_nothing_in_use(service);
}

#[test]
fn a_bio_nobody_can_handle_completes_with_the_reason() {
    let service = service();
    let disk = disk(service, 8);
    let buffer = Buffer::new(service, 0);
    let (bio, result) = service.submit_and_wait(plain(service));
    assert_eq!(result, Err(BioError::NoDevice));
    drop(bio);
    let mut odd = aim(plain(service), Operation::Read, disk.get(), 0);
    buffer.add_to(&mut odd, 0, 100);
    assert_eq!(service.submit_and_wait(odd).1, Err(BioError::NotSupported));
    let mut flush = aim(plain(service), Operation::Flush, disk.get(), 0);
    buffer.add_to(&mut flush, 0, SECTOR);
    assert_eq!(service.submit_and_wait(flush).1, Err(BioError::NotSupported));
    let mut far = aim(plain(service), Operation::Read, disk.get(), u64::MAX);
    buffer.add_to(&mut far, 0, SECTOR);
    assert_eq!(service.submit_and_wait(far).1, Err(BioError::OutOfRange));
    drop(buffer);
    end_disk(disk);
    assert_nothing_in_use(service);
}

#[test]
fn a_bio_that_a_driver_drops_completes_with_an_error() {
    let service = service();
    let disk = disk(service, 8);
    let ends = Ends::default();
    disk.get().hold(true);
    let mut bio = aim(plain(service), Operation::Read, disk.get(), 0);
    ends.note(&mut bio);
    service.submit_bio(bio);
    assert_eq!((disk.get().waiting(), ends.count()), (1, 0));
    end_disk(disk);
    assert_eq!((ends.count(), ends.failed_with(BioError::Dropped)), (1, true));
    assert_nothing_in_use(service);
}

#[test]
fn a_chain_longer_than_any_stack_completes() {
    let service = service();
    let ends = Ends::default();
    let mut last = plain(service);
    ends.note(&mut last);
    let mut waiting = Vec::new();
    for _ in 0..100_000 {
        let mut child = plain(service);
        child.chain_to(&mut last);
        waiting.push(std::mem::replace(&mut last, child));
    }
    for bio in waiting {
        bio.endio(Ok(()));
    }
    assert_eq!(ends.count(), 0);
    last.endio(Err(BioError::Io));
    assert_eq!((ends.count(), ends.failed_with(BioError::Io)), (1, true));
    assert_nothing_in_use(service);
}

#[test]
#[should_panic(expected = "a completion of its own")]
fn a_bio_with_a_completion_is_not_chained() {
    let service = service();
    let (mut child, mut parent) = (plain(service), plain(service));
    Ends::default().note(&mut child);
    child.chain_to(&mut parent);
}

#[test]
#[should_panic(expected = "chained to another, which would never complete")]
fn a_chained_bio_gets_no_completion_of_its_own() {
    let service = service();
    let (mut child, mut parent) = (plain(service), plain(service));
    child.chain_to(&mut parent);
    Ends::default().note(&mut child);
}

#[test]
#[should_panic(expected = "wait for that one")]
fn a_chained_bio_is_not_waited_for_alone() {
    let service = service();
    let (mut child, mut parent) = (plain(service), plain(service));
    child.chain_to(&mut parent);
    let _ = service.submit_and_wait(child);
}

proptest! {
    #![proptest_config(cases(64))]

    /// Each bio but the first is chained to one before it; all are ended in any order, some with errors, some dropped.
    #[test]
    fn a_tree_of_chained_bios_completes_once_whatever_the_order_and_keeps_an_error(
        parents in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 13),
    ) {
        let service = shared_service();
        let ends = Ends::default();
        let mut bios = vec![plain(service)];
        ends.note(&mut bios[0]);
        for parent in parents {
            let mut child = plain(service);
            let parent = parent.index(bios.len());
            child.chain_to(&mut bios[parent]);
            bios.push(child);
        }
        let mut failed = false;
        for (which, how) in order {
            if bios.is_empty() {
                break;
            }
            prop_assert_eq!(ends.count(), 0);
            let bio = bios.swap_remove(which.index(bios.len()));
            match how {
                0 => bio.endio(Err(BioError::Io)),
                _ => bio.endio(Ok(())),
            }
            failed |= how == 0;
        }
        prop_assert_eq!(ends.count(), 1);
        prop_assert_eq!(ends.failed_with(BioError::Io), failed);
        assert_nothing_in_use(service);
    }
}

#[test]
fn the_first_error_is_the_one_that_is_kept() {
    let service = service();
    let ends = Ends::default();
    let mut parent = plain(service);
    ends.note(&mut parent);
    let mut children: Vec<_> = (0..3).map(|_| plain(service)).collect();
    for child in &mut children {
        child.chain_to(&mut parent);
    }
    let [first, second, third] = children.try_into().unwrap_or_else(|_| panic!("three were made"));
    parent.endio(Ok(()));
    second.endio(Err(BioError::OutOfRange));
    drop(first);
    assert_eq!(ends.count(), 0);
    third.endio(Err(BioError::Io));
    assert_eq!((ends.count(), ends.failed_with(BioError::OutOfRange)), (1, true));
    assert_nothing_in_use(service);
}

#[test]
fn children_completed_on_several_threads_complete_their_parent_once() {
    let service = service();
    for _ in 0..200 {
        let ends = Ends::default();
        let mut parent = plain(service);
        ends.note(&mut parent);
        let children: Vec<_> = (0..4)
            .map(|_| {
                let mut child = plain(service);
                child.chain_to(&mut parent);
                child
            })
            .collect();
        std::thread::scope(|scope| {
            for child in children {
                scope.spawn(move || child.endio(Ok(())));
            }
            parent.endio(Err(BioError::Io));
        });
        assert_eq!((ends.count(), ends.failed_with(BioError::Io)), (1, true));
    }
    assert_nothing_in_use(service);
}
