//! What is mapped and how: tried with probes, and looked up in the page tables.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{Gfp, Machine};
use quarry_unikernel::probe::{can_read, can_write};
use quarry_unikernel::{cpus, rights, thread, topology};

use crate::harness::Outcome;
use crate::object::Object;
use crate::team::check_on_every_cpu;
use crate::{check, check_equal, tests};

const PAGE_BYTES: u64 = 4096;

/// The top of the address space, where images are.
const IMAGE_WINDOW_BYTES: u64 = 2 << 30;

const READ_ONLY: Option<(bool, bool)> = Some((false, false));
const READ_WRITE: Option<(bool, bool)> = Some((true, false));
const EXECUTE: Option<(bool, bool)> = Some((false, true));

static CONSTANT: [u64; 4] = [3, 1, 4, 1];
static DATA: AtomicU64 = AtomicU64::new(1);

fn the_null_page_cannot_be_touched() -> Outcome {
    check_on_every_cpu(|_| {
        for address in [0, 8, 4095] {
            check!(!can_read(address) && !can_write(address), "address {address} can be touched");
        }
        Ok(())
    })
}

fn nothing_is_mapped_in_the_lower_half() -> Outcome {
    check_on_every_cpu(|_| {
        // Where the loader, its stack, the other CPUs' start page and the physical image are or were.
        let low = (PAGE_BYTES..4 << 20).step_by(PAGE_BYTES as usize).chain([1 << 30, 1 << 40, 0x7fff_ffff_f000]);
        for address in low {
            check!(!can_read(address), "address {address:#x} can be read");
        }
        Ok(())
    })
}

fn text_is_not_writable() -> Outcome {
    let text = text_is_not_writable as *const () as u64;
    check_equal!(rights(text), EXECUTE, "text may be (written, executed)");
    check!(can_read(text) && !can_write(text), "text is not readable, or writable");
    Ok(())
}

fn constants_are_neither_writable_nor_executable() -> Outcome {
    let constant = (&raw const CONSTANT).addr() as u64;
    check_equal!(rights(constant), READ_ONLY, "constants may be (written, executed)");
    check!(can_read(constant) && !can_write(constant), "constants are not readable, or writable");
    let data = (&raw const DATA).addr() as u64;
    check_equal!(rights(data), READ_WRITE, "data may be (written, executed)");
    check!(can_write(data), "data is not writable");
    Ok(())
}

fn no_page_of_the_image_is_writable_and_executable() -> Outcome {
    let pages = (0..IMAGE_WINDOW_BYTES / PAGE_BYTES).map(|page| (page * PAGE_BYTES).wrapping_sub(IMAGE_WINDOW_BYTES));
    let mut counts = [0_u64; 3];
    for page in pages {
        match rights(page) {
            None => {}
            READ_ONLY => counts[0] += 1,
            READ_WRITE => counts[1] += 1,
            EXECUTE => counts[2] += 1,
            Some(_) => return Err(alloc::format!("the page at {page:#x} is writable and executable")),
        }
    }
    check!(counts.iter().all(|&count| count > 0), "constants, data and text have {counts:?} pages");
    Ok(())
}

fn the_direct_map_is_data() -> Outcome {
    let direct_map = service().machine().direct_map() as u64;
    for memory in topology().memory() {
        let last = memory.range.end - 1;
        for physical in (memory.range.start..last).step_by(2 << 20).chain([last]) {
            let address = direct_map + physical;
            check_equal!(rights(address), READ_WRITE, "{physical:#x} in the direct map may be (written, executed)");
            check!(can_read(address), "{physical:#x} cannot be read in the direct map");
        }
    }
    Ok(())
}

fn the_heap_is_data() -> Outcome {
    for size in [8, 8192, 1 << 20] {
        let object = Object::new(size, Gfp::KERNEL).ok_or("no memory")?;
        check_equal!(rights(object.address() as u64), READ_WRITE, "{size} bytes may be (written, executed)");
    }
    Ok(())
}

/// The mapped pages around an address, and what they may be used for.
fn mapped_around(address: u64) -> Vec<Option<(bool, bool)>> {
    let here = address & !(PAGE_BYTES - 1);
    let step = PAGE_BYTES as usize;
    let up = (here..).step_by(step).map(rights).take_while(Option::is_some);
    let down = (1..).map(|pages| rights(here - pages * PAGE_BYTES)).take_while(Option::is_some);
    up.chain(down).collect()
}

fn a_stack_is_data_between_pages_that_are_not_there() -> Outcome {
    for cpu in cpus::online() {
        for pages in [5, 16, 33] {
            let body = move || {
                let local = 0_u8;
                let address = (&raw const local).addr() as u64;
                let below = (1..=pages).map(|page| address - page * PAGE_BYTES);
                let guard_holds = below.into_iter().any(|page| !can_read(page) && !can_write(page));
                (mapped_around(address), guard_holds)
            };
            let thread = thread::spawn_with_stack(cpu, "stack", pages * PAGE_BYTES, body);
            let (mapped, guard_holds) = thread.map_err(|error| alloc::format!("{error}"))?.join();
            check_equal!(mapped.len() as u64, pages, "pages of a stack of {pages}");
            check!(mapped.iter().all(|&page| page == READ_WRITE), "pages of a stack are not all data: {mapped:?}");
            check!(guard_holds, "the page below a stack can be touched");
        }
    }
    Ok(())
}

fn what_the_windows_have_no_memory_for_reads_as_zero() -> Outcome {
    check_on_every_cpu(|_| {
        let machine = service().machine();
        let image = the_null_page_cannot_be_touched as *const () as usize;
        let window = machine.mapping_window();
        for address in [0, 4096, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, image, window.start, usize::MAX] {
            check_equal!(machine.tag(address), 0, "tag of {address:#x}");
        }
        let tables = machine.tables();
        // The last frames there can be: no machine has them.
        let far = 0xffff_0000;
        for window in [tables.tags.wrapping_add(far).addr() as u64, tables.states.wrapping_add(far).addr() as u64] {
            check_equal!(rights(window), READ_ONLY, "a window may be (written, executed) where nothing is");
            check!(can_read(window) && !can_write(window), "a window is not readable, or writable where nothing is");
        }
        let object = Object::new(64, Gfp::KERNEL).ok_or("no memory")?;
        check!(machine.tag(object.address()) != 0, "an object has no tag");
        Ok(())
    })
}

tests! { "paging":
    the_null_page_cannot_be_touched,
    nothing_is_mapped_in_the_lower_half,
    text_is_not_writable,
    constants_are_neither_writable_nor_executable,
    no_page_of_the_image_is_writable_and_executable,
    the_direct_map_is_data,
    the_heap_is_data,
    a_stack_is_data_between_pages_that_are_not_there,
    what_the_windows_have_no_memory_for_reads_as_zero,
}
