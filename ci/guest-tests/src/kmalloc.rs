//! The kmalloc family: what it promises, at its edges and in between.

use alloc::vec::Vec;
use core::ptr;

use quarry_unikernel::memory::{ZERO_SIZE_PTR, service};
use quarry_unikernel::memory_service::{FreeError, Gfp, MAX_SIZE, MAX_SLAB_SIZE, NodeId, Order};
use quarry_unikernel::{cpus, topology};

use crate::harness::Outcome;
use crate::object::Object;
use crate::team::{InUse, another_cpu, check_on_every_cpu, on_cpu, without_loss};
use crate::{check, check_equal, tests};

const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

fn a_request_of_nothing_is_not_null_and_may_be_freed() -> Outcome {
    let memory = service();
    let none = NodeId(0);
    let results = [
        memory.kmalloc(0, Gfp::KERNEL),
        memory.kzalloc(0, Gfp::KERNEL),
        memory.kmalloc(0, Gfp::KERNEL | Gfp::DMA),
        memory.kmalloc_array(0, 8, Gfp::KERNEL),
        memory.kmalloc_array(8, 0, Gfp::KERNEL),
        memory.kcalloc(0, usize::MAX, Gfp::KERNEL),
        memory.kmalloc_node(0, Gfp::KERNEL, none),
        memory.kzalloc_node(0, Gfp::KERNEL, none),
        memory.kmemdup(&[], Gfp::KERNEL),
    ];
    for (index, result) in results.into_iter().enumerate() {
        check_equal!(result, ZERO_SIZE_PTR, "result {index}");
        check_equal!(memory.ksize(result), 0, "its size");
        // SAFETY: nobody uses nothing.
        unsafe { memory.kfree(result) };
    }
    Ok(())
}

fn freeing_null_does_nothing() -> Outcome {
    let before = InUse::now();
    let memory = service();
    // SAFETY: null is nobody's.
    unsafe {
        memory.kfree(ptr::null_mut());
        memory.kfree_sensitive(ptr::null_mut());
        memory.vfree(ptr::null_mut());
        memory.kvfree(ptr::null_mut());
        check_equal!(memory.try_kfree(ptr::null_mut()), Ok(()), "try_kfree of null");
    }
    memory.free_pages(ptr::null_mut(), Order::ZERO);
    check_equal!(memory.ksize(ptr::null()), 0, "ksize of null");
    check_equal!(InUse::now(), before, "in use");
    Ok(())
}

fn what_is_too_large_is_refused() -> Outcome {
    let memory = service();
    for size in [MAX_SIZE + 1, 1 << 40, isize::MAX as usize, usize::MAX - 4096, usize::MAX] {
        check!(memory.kmalloc(size, QUIET).is_null(), "kmalloc({size:#x}) is not null");
        check!(memory.kzalloc(size, QUIET).is_null(), "kzalloc({size:#x}) is not null");
        check!(memory.kmalloc_node(size, QUIET, NodeId(0)).is_null(), "kmalloc_node({size:#x}) is not null");
        check!(memory.kmalloc_aligned(size, 64, QUIET).is_null(), "kmalloc_aligned({size:#x}) is not null");
    }
    for (count, size) in [(usize::MAX, 2), (2, usize::MAX), (1 << 32, 1 << 32), (usize::MAX / 8 + 2, 8)] {
        check!(memory.kmalloc_array(count, size, QUIET).is_null(), "kmalloc_array({count:#x}, {size:#x}) is not null");
        check!(memory.kcalloc(count, size, QUIET).is_null(), "kcalloc({count:#x}, {size:#x}) is not null");
    }
    let largest = Object::new(MAX_SIZE, Gfp::KERNEL).ok_or("the largest size is refused")?;
    check_equal!(memory.ksize(largest.as_ptr()), MAX_SIZE, "size of the largest object");
    Ok(())
}

fn powers_of_two_are_aligned_to_their_size() -> Outcome {
    without_loss(|| {
        for shift in 3..=MAX_SIZE.trailing_zeros() {
            let size = 1 << shift;
            let objects: Vec<_> = (0..4).filter_map(|_| Object::new(size, Gfp::KERNEL)).collect();
            check_equal!(objects.len(), 4, "objects of {size} bytes");
            for object in &objects {
                check!(object.address().is_multiple_of(size), "{size} bytes are at {:#x}", object.address());
            }
        }
        for (size, align) in [(1, 16), (24, 64), (100, 128), (3000, 4096), (5000, 4096), (1, 8192), (9000, 65536)] {
            let start = service().kmalloc_aligned(size, align, Gfp::KERNEL);
            // SAFETY: just allocated.
            let object = unsafe { Object::adopt(start, size) }.ok_or("no memory")?;
            check!(object.address().is_multiple_of(align), "{size} bytes for {align} are at {:#x}", object.address());
        }
        Ok(())
    })
}

fn every_small_size_has_room_and_wastes_little() -> Outcome {
    without_loss(|| {
        for size in 1..=MAX_SLAB_SIZE {
            let object = Object::new(size, Gfp::KERNEL).ok_or("no memory")?;
            let real = service().ksize(object.as_ptr());
            check!(real >= size && object.address().is_multiple_of(8), "{size} bytes got {real} at {object:?}");
            check!(size <= 128 || (real - size) * 8 <= real, "{size} bytes got {real}");
        }
        Ok(())
    })
}

fn objects_do_not_overlap() -> Outcome {
    without_loss(|| {
        let mut objects = Vec::new();
        for size in [1, 8, 9, 24, 64, 100, 192, 1000, 1024, 1500, 4096, 6000, 8192, 8193, 40_000, 1 << 20] {
            for _ in 0..if size <= MAX_SLAB_SIZE { 100 } else { 3 } {
                let real = service().ksize(Object::new(size, Gfp::KERNEL).ok_or("no memory")?.as_ptr());
                // All the room there is, also what was not asked for.
                let mut object = Object::new(real, Gfp::KERNEL).ok_or("no memory")?;
                object.fill(objects.len() as u64);
                objects.push(object);
            }
        }
        for (seed, object) in objects.iter().enumerate() {
            check!(object.holds(seed as u64), "somebody wrote to object {seed}, {object:?}");
        }
        Ok(())
    })
}

fn zeroed_memory_is_zero_whatever_it_held() -> Outcome {
    check_on_every_cpu(|_| {
        for size in [1, 8, 40, 96, 256, 1000, 4096, 8192, 10_000, 65_536, 300_000] {
            for round in 0..20 {
                let mut dirty = Object::new(size, Gfp::KERNEL).ok_or("no memory")?;
                dirty.fill(u64::MAX - round);
                drop(dirty);
                let memory = service();
                let node = memory.cpu_to_node(cpus::current());
                let start = match round % 5 {
                    0 => memory.kzalloc(size, Gfp::KERNEL),
                    1 => memory.kcalloc(1, size, Gfp::KERNEL),
                    2 => memory.kmalloc(size, Gfp::KERNEL | Gfp::ZERO),
                    3 => memory.kzalloc_node(size, Gfp::KERNEL, node),
                    _ => memory.kzalloc(size, Gfp::KERNEL | Gfp::DMA32),
                };
                // SAFETY: just allocated.
                let object = unsafe { Object::adopt(start, size) }.ok_or("no memory")?;
                check!(object.is_zero(), "{size} bytes of round {round} are not zero");
            }
        }
        Ok(())
    })
}

fn krealloc_keeps_the_contents() -> Outcome {
    without_loss(|| {
        let memory = service();
        // SAFETY: null is nobody's.
        let mut start = unsafe { memory.krealloc(ptr::null_mut(), 10, Gfp::KERNEL) };
        let mut kept = 0;
        for size in [16, 17, 100, 100, 1000, 500, 8192, 9000, 100_000, 200, 1 << 20, 64] {
            // SAFETY: `start` came from krealloc, is used by nobody else, and its successor takes its place.
            start = unsafe { memory.krealloc(start, size, Gfp::KERNEL) };
            // SAFETY: as above; it has at least `size` bytes.
            let mut object = unsafe { Object::adopt(start, size) }.ok_or("no memory")?;
            let whole = kept / 8 * 8;
            check!(object.starts_with(kept as u64, whole.min(size / 8 * 8)), "{size} bytes lost the {kept} they had");
            object.fill(size as u64);
            kept = size;
            start = object.release();
        }
        // SAFETY: as above.
        let refused = unsafe { memory.krealloc(start, MAX_SIZE + 1, QUIET) };
        check!(refused.is_null(), "more than the largest size is not null");
        // SAFETY: as above; the failure left it alone.
        let object = unsafe { Object::adopt(start, kept) }.ok_or("null")?;
        check!(object.holds(kept as u64), "a refused krealloc changed the object");
        // SAFETY: the object is given up.
        let nothing = unsafe { memory.krealloc(object.release(), 0, Gfp::KERNEL) };
        check_equal!(nothing, ZERO_SIZE_PTR, "krealloc to nothing");
        Ok(())
    })
}

fn copies_are_copies() -> Outcome {
    without_loss(|| {
        for text in ["k", "kmemdup", "a text that is longer than the smallest of the size classes there are"] {
            let start = service().kmemdup(text.as_bytes(), Gfp::KERNEL);
            check!(!start.is_null(), "no memory");
            // SAFETY: a copy of that many bytes, this test's alone.
            let same = unsafe { core::slice::from_raw_parts(start, text.len()) } == text.as_bytes();
            // SAFETY: nobody uses it any more.
            unsafe { service().kfree_sensitive(start) };
            check!(same, "the copy of {text:?} differs");
        }
        Ok(())
    })
}

fn memory_comes_from_the_node_asked_for() -> Outcome {
    check_on_every_cpu(|_| {
        for node in topology().nodes() {
            for size in [8, 64, 1000, 8192, 20_000] {
                for _ in 0..20 {
                    let object = Object::on_node(size, Gfp::KERNEL, node).ok_or("no memory")?;
                    if topology().has_memory(node) {
                        check_equal!(object.node(), Some(node), "node of {size} bytes");
                        continue;
                    }
                    let alone = Object::on_node(size, QUIET | Gfp::THISNODE, node);
                    check!(alone.is_none(), "{node} has no memory and yet {alone:?}");
                }
            }
        }
        for missing in [topology().node_count(), 63, 255] {
            let missing = NodeId(missing as u8);
            if missing.index() >= topology().node_count() {
                let object = Object::on_node(64, QUIET, missing);
                check!(object.is_none(), "{missing} does not exist and yet {object:?}");
            }
        }
        Ok(())
    })
}

fn plain_requests_are_local() -> Outcome {
    check_on_every_cpu(|cpu| {
        let node = topology().cpus()[cpu.index()].node;
        for size in [16, 500, 5000, 30_000] {
            let object = Object::new(size, Gfp::KERNEL).ok_or("no memory")?;
            let found = object.node().ok_or("an object is on no node")?;
            if topology().has_memory(node) {
                check_equal!(found, node, "node of {size} bytes");
                continue;
            }
            let distance = |other| topology().distance(node, other);
            let nearest = topology().nodes().filter(|&other| topology().has_memory(other)).map(distance).min();
            check_equal!(Some(distance(found)), nearest, "distance of {size} bytes from a node without memory");
        }
        Ok(())
    })
}

fn low_memory_is_low() -> Outcome {
    without_loss(|| {
        for size in [8, 100, 4096, 8192, 9000, 100_000] {
            for (flag, limit) in [(Gfp::DMA, 16 << 20), (Gfp::DMA32, 4 << 30)] {
                let objects: Vec<_> = (0..5).filter_map(|_| Object::new(size, Gfp::KERNEL | flag)).collect();
                check_equal!(objects.len(), 5, "objects of {size} bytes with {flag}");
                for object in &objects {
                    let end = object.physical().ok_or("an object is nowhere")? + size as u64;
                    check!(end <= limit, "{size} bytes with {flag} end at {end:#x}");
                }
            }
        }
        Ok(())
    })
}

fn a_free_of_what_is_no_object_is_told() -> Outcome {
    let memory = service();
    // SAFETY: nobody uses what these calls get; that they free nothing is the test.
    let try_free = |address: usize| unsafe { memory.try_kfree(ptr::with_exposed_provenance_mut(address)) };
    let before = InUse::now();
    for size in [24, 64, 200, 1024, 8192] {
        let object = Object::new(size, Gfp::KERNEL).ok_or("no memory")?;
        for inside in [1, 8, size - 1].map(|offset| object.address() + offset) {
            check_equal!(try_free(inside), Err(FreeError::Misaligned(inside)), "a free inside {object:?}");
        }
        let address = object.address();
        drop(object);
        check_equal!(try_free(address), Err(FreeError::DoubleFree(address)), "a second free of {size} bytes");
        let elsewhere = on_cpu(another_cpu(), move || {
            // SAFETY: as above.
            unsafe { service().try_kfree(ptr::with_exposed_provenance_mut(address)) }
        });
        check_equal!(elsewhere, Err(FreeError::DoubleFree(address)), "a second free on another CPU");
    }
    let large = Object::new(20_000, Gfp::KERNEL).ok_or("no memory")?;
    let (inside, page) = (large.address() + 8, large.address() + 4096);
    check_equal!(try_free(inside), Err(FreeError::Misaligned(inside)), "a free inside a large object");
    check_equal!(try_free(page), Err(FreeError::NotAnObject(page)), "a free of a large object's second page");
    let address = large.address();
    drop(large);
    check_equal!(try_free(address), Err(FreeError::NotAnObject(address)), "a second free of a large object");
    let page = memory.get_free_pages(Gfp::KERNEL, Order::ZERO);
    let local = 0_u64;
    let foreign = [
        page.addr(),
        (&raw const local).addr(),
        a_free_of_what_is_no_object_is_told as *const () as usize,
        0x1000,
        0x7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        0xffff_ffff_ffff_fff8,
    ];
    for address in foreign {
        check_equal!(try_free(address), Err(FreeError::NotAnObject(address)), "a free of a foreign pointer");
    }
    memory.free_pages(page, Order::ZERO);
    check_equal!(InUse::now(), before, "in use");
    Ok(())
}

fn objects_may_be_freed_on_any_cpu() -> Outcome {
    without_loss(|| {
        for cpu in cpus::online() {
            let objects = on_cpu(cpu, || {
                let mut objects: Vec<_> = (1..2000).filter_map(|size| Object::new(size, Gfp::KERNEL)).collect();
                for object in &mut objects {
                    object.fill(object.address() as u64);
                }
                objects
            });
            check_equal!(objects.len(), 1999, "objects");
            for object in objects {
                check!(object.holds(object.address() as u64), "{object:?} changed on its way");
            }
        }
        Ok(())
    })
}

tests! { "kmalloc":
    a_request_of_nothing_is_not_null_and_may_be_freed,
    freeing_null_does_nothing,
    what_is_too_large_is_refused,
    powers_of_two_are_aligned_to_their_size,
    every_small_size_has_room_and_wastes_little,
    objects_do_not_overlap,
    zeroed_memory_is_zero_whatever_it_held,
    krealloc_keeps_the_contents,
    copies_are_copies,
    memory_comes_from_the_node_asked_for,
    plain_requests_are_local,
    low_memory_is_low,
    a_free_of_what_is_no_object_is_told,
    objects_may_be_freed_on_any_cpu,
}
