//! Contiguous memory: the manual's example, blocks larger than any other call gives, buffers that CPUs share as a device
//! would, and what a request costs however large the machine is.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::slice;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::{
    ContigBlock, ContigError, ContigRequest, CpuId, Gfp, M_DEVBUF, MallocFlags, MallocType, MovablePage, MovablePages,
    NodeMask, Order,
};
use quarry_unikernel::{TrapFrame, cpus, option, println, thread, time, topology};

use crate::harness::Outcome;
use crate::interrupts::{raise_and_wait, register};
use crate::team::{check_on_every_cpu, eventually};
use crate::{check, check_equal, tests};

static M_TEST: MallocType = MallocType::new("guesttest", "memory of the guest's tests");

const HANDLER: u8 = 0x69;

type Block = ContigBlock<'static, Guest>;

fn obtain(request: &ContigRequest) -> Result<Block, ContigError> {
    service().contig_block(&M_TEST, request)
}

fn at_once(bytes: usize) -> ContigRequest {
    ContigRequest { flags: MallocFlags::NOWAIT, ..ContigRequest::new(bytes) }
}

fn the_manuals_example_is_served() -> Outcome {
    let (size, alignment, boundary) = (8192, 32 * 1024, 1024 * 1024);
    let p = service().contigmalloc(size, &M_DEVBUF, MallocFlags::ZERO, 0, 1 << 22, alignment, boundary);
    check!(!p.is_null(), "there is no such memory");
    let first = service().virt_to_page(p).ok_or("it is no memory of the service")?.physical();
    let last = first + size as u64 - 1;
    check!(last <= 4_194_303, "it ends at {last:#x}");
    check_equal!(first % alignment as u64, 0, "what is over of {first:#x}");
    check_equal!(first / boundary as u64, last / boundary as u64, "part of memory between boundaries");
    // SAFETY: it was allocated with that size, and zeroed.
    check!(unsafe { slice::from_raw_parts(p, size) }.iter().all(|&byte| byte == 0), "it is not zero");
    // SAFETY: nobody uses it any more.
    unsafe { service().contigfree(p, size, &M_DEVBUF) };
    Ok(())
}

fn large_blocks_are_one_piece_of_ram() -> Outcome {
    for mebibytes in [5_usize, 17, 64] {
        let block = obtain(&ContigRequest { alignment: 1 << 21, ..ContigRequest::new(mebibytes << 20) })
            .map_err(|error| format!("{mebibytes} MiB: {error}"))?;
        check_equal!(block.physical() % (1 << 21), 0, "what is over of {:#x}", block.physical());
        // A word in each page: what one address changes, no other sees.
        for page in 0..block.size() / 4096 {
            // SAFETY: it is inside the block, which is this test's and as large as that.
            unsafe { block.as_ptr().cast::<usize>().add(page * 512).write(page) };
        }
        for page in 0..block.size() / 4096 {
            // SAFETY: as above, and it was written.
            let found = unsafe { block.as_ptr().cast::<usize>().add(page * 512).read() };
            check_equal!(found, page, "what is in page {page} of {mebibytes} MiB");
        }
    }
    Ok(())
}

/// A ring of buffers, as a network device has one: descriptors that name buffers by physical address, filled by one CPU
/// and read by the others.
struct Ring {
    descriptors: Block,
    buffers: Block,
    /// Buffers filled so far, and checked so far, all CPUs together.
    filled: AtomicU64,
    checked: AtomicU64,
}

const BUFFERS: usize = 256;
const BUFFER: usize = 16 * 1024;

impl Ring {
    fn new() -> Result<Self, ContigError> {
        let boundary = 4 * 1024 * 1024;
        let low = ContigRequest { high: u64::from(u32::MAX), boundary, flags: MallocFlags::ZERO, ..at_once(1) };
        Ok(Self {
            descriptors: obtain(&ContigRequest { size: BUFFERS * size_of::<u64>(), alignment: 4096, ..low })?,
            buffers: obtain(&ContigRequest { size: BUFFERS * BUFFER, alignment: BUFFER, ..low })?,
            filled: AtomicU64::new(0),
            checked: AtomicU64::new(0),
        })
    }

    fn descriptor(&self, buffer: usize) -> &AtomicU64 {
        // SAFETY: the descriptors are so many words, zeroed, aligned, the ring's as long as it lives, and only used as
        // atomics.
        unsafe { &*self.descriptors.as_ptr().cast::<AtomicU64>().add(buffer) }
    }

    /// Words of the buffer with that physical address.
    fn words(physical: u64) -> impl Iterator<Item = &'static AtomicU64> {
        let frame = quarry_unikernel::memory_service::Pfn::containing(physical);
        let base = service().page_address(frame).cast::<AtomicU64>();
        // SAFETY: the address is a buffer's, as descriptors have them; the words are atomics, and the tests end before
        // the ring goes.
        (0..BUFFER / 8).map(move |word| unsafe { &*base.add(word) })
    }

    fn fill(&self) {
        for buffer in 0..BUFFERS {
            let physical = self.buffers.physical() + (buffer * BUFFER) as u64;
            Self::words(physical).for_each(|word| word.store(physical | buffer as u64, Ordering::Relaxed));
            // Release: pairs with the Acquire in `check`.
            self.descriptor(buffer).store(physical | 1, Ordering::Release);
            self.filled.fetch_add(1, Ordering::Relaxed);
            if buffer % 16 == 0 {
                thread::yield_now();
            }
        }
    }

    fn check(&self, cpu: usize, cpus: usize) -> Outcome {
        for buffer in (cpu..BUFFERS).step_by(cpus) {
            eventually("a buffer is filled", || self.descriptor(buffer).load(Ordering::Acquire) & 1 != 0)?;
            let physical = self.descriptor(buffer).load(Ordering::Acquire) & !1;
            check_equal!(physical % BUFFER as u64, 0, "what is over of {physical:#x}");
            let expected = physical | buffer as u64;
            let right = Self::words(physical).all(|word| word.load(Ordering::Relaxed) == expected);
            check!(right, "buffer {buffer} at {physical:#x} is not what was put there");
            self.checked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn cpus_share_buffers_by_physical_address() -> Outcome {
    let ring = Arc::new(Ring::new().map_err(|error| format!("{error}"))?);
    let cpus = cpus::online().count();
    let shared = Arc::clone(&ring);
    check_on_every_cpu(move |cpu| {
        if cpu == CpuId(0) {
            shared.fill();
        }
        shared.check(usize::from(cpu.0), cpus)
    })?;
    check_equal!(ring.filled.load(Ordering::Relaxed), BUFFERS as u64, "buffers filled");
    check_equal!(ring.checked.load(Ordering::Relaxed), BUFFERS as u64, "buffers checked");
    Ok(())
}

fn every_cpu_gets_runs_of_its_own_from_the_nodes_it_names() -> Outcome {
    check_on_every_cpu(|cpu| {
        let mark = cpu.0 as u8 + 1;
        let mut held: Vec<Block> = Vec::new();
        for round in 0..40_usize {
            let node = service().cpu_to_node(cpu);
            let nodes = if round % 2 == 0 { NodeMask::ALL } else { NodeMask::only(node) };
            let request = ContigRequest { nodes, ..ContigRequest::new(5000 * (1 + round % 9)) };
            let block = match obtain(&request) {
                Ok(block) => block,
                Err(_) if round % 2 == 1 && !topology().has_memory(node) => continue,
                Err(error) => return Err(format!("{request:?}: {error}")),
            };
            if round % 2 == 1 {
                let frame = service().virt_to_page(block.as_ptr()).ok_or("it is no memory")?;
                check_equal!(service().page_to_node(frame), Some(node), "node of {frame}");
            }
            // SAFETY: the block is this thread's, as large as that.
            unsafe { block.as_ptr().write_bytes(mark, block.size()) };
            held.push(block);
            if held.len() > 5 {
                let block = held.remove(0);
                // SAFETY: as above, and it was written.
                let bytes = unsafe { slice::from_raw_parts(block.as_ptr(), block.size()) };
                check!(bytes.iter().all(|&byte| byte == mark), "another CPU wrote to {block:?}");
            }
            thread::yield_now();
        }
        Ok(())
    })
}

fn pages_move_out_of_the_way() -> Outcome {
    // One for all runs of the test, for sets stay.
    static SET: spin::Once<&'static MovablePages<Guest>> = spin::Once::new();
    let set = SET.call_once(|| service().movable_pages(4096).expect("there is memory for a small table"));
    let mut pages: Vec<MovablePage<Guest>> =
        (0..4096).map(|_| set.alloc(Gfp::KERNEL)).collect::<Option<_>>().ok_or("no memory")?;
    let mut number = 0;
    pages.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    for (page, number) in pages.iter_mut().zip(0_u64..) {
        page.pin_mut()[..8].copy_from_slice(&number.to_le_bytes());
    }
    // The two mebibytes around some page, every other frame of which is free.
    let place = pages[pages.len() / 2].pin().frame().physical() & !((1 << 21) - 1);
    let there = ContigRequest { low: place, high: place + (1 << 21) - 1, ..ContigRequest::new(1 << 21) };
    check!(obtain(&ContigRequest { flags: MallocFlags::NOWAIT, ..there }).is_err(), "nothing was in the way");
    let block = obtain(&there).map_err(|error| format!("{place:#x}: {error}"))?;
    check_equal!(block.physical(), place, "the place");
    let is_whole = |(page, number): (&MovablePage<Guest>, u64)| page.pin()[..8] == number.to_le_bytes();
    check!(pages.iter().zip(0..).all(is_whole), "a page that moved lost what was in it");
    let range = place..place + (1 << 21);
    check!(!pages.iter().any(|page| range.contains(&page.pin().frame().physical())), "a page is in the run");
    Ok(())
}

/// Two mebibytes and a gigabyte, in memory never filled and in memory filled and free; and two mebibytes where a section has to be
/// filled first.
///
/// The bound is in instructions, which is what the clock counts with `--icount`: where it does not, only the memory is
/// looked at.
fn a_request_takes_less_than_a_millisecond_of_instructions() -> Outcome {
    let fill = || {
        // Twice as much as is asked for, or what there is.
        let blocks = (0..512).map_while(|_| service().alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::MAX));
        let blocks: Vec<_> = blocks.collect();
        for block in blocks {
            service().__free_pages(block, Order::MAX);
        }
    };
    let counted = option("icount") == Some("1");
    for (at, low) in untouched_sections().enumerate() {
        let request = ContigRequest { low, high: low + SECTION - 1, ..at_once(1 << 21) };
        let start = time::ticks();
        let block = obtain(&request).map_err(|error| format!("in section {at} from {low:#x}: {error}"))?;
        let taken = time::ticks() - start;
        check!((low..low + SECTION).contains(&block.physical()), "it is at {:#x}", block.physical());
        if counted {
            println!("instructions for 2 MiB of a section never filled: {taken}");
            check!(taken < 1_000_000, "{taken} instructions for 2 MiB of a section never filled");
        }
    }
    for state in ["as it was", "filled"] {
        for (what, bytes) in [("1 GiB", 1 << 30), ("2 MiB", 1 << 21)] {
            if total_memory() < 4 * bytes as u64 {
                continue;
            }
            let (mut allocations, mut frees) = (Vec::with_capacity(4), Vec::with_capacity(4));
            for _ in 0..4 {
                let start = time::ticks();
                let block = obtain(&at_once(bytes)).map_err(|error| format!("{what}: {error}"))?;
                let allocated = time::ticks();
                // SAFETY: the first and the last word of the block, which is this test's and as large as that.
                unsafe {
                    block.as_ptr().cast::<usize>().write(bytes);
                    block.as_ptr().add(bytes - 8).cast::<usize>().write(bytes);
                }
                let before = time::ticks();
                drop(block);
                frees.push(time::ticks() - before);
                allocations.push(allocated - start);
            }
            if counted {
                println!("instructions for {what} of memory {state}: {allocations:?} to allocate, {frees:?} to free");
                let most = allocations.iter().chain(&frees).max();
                check!(most.is_some_and(|&most| most < 1_000_000), "{what}: {allocations:?}, freed: {frees:?}");
            }
        }
        fill();
    }
    Ok(())
}

/// Bytes that the service takes in at once.
const SECTION: u64 = 128 << 20;

/// Some sections in the middle of the largest piece of RAM, if that is so large that nothing of them was used yet.
fn untouched_sections() -> impl Iterator<Item = u64> {
    let largest = topology().memory().iter().max_by_key(|memory| memory.range.len());
    let large = largest.filter(|memory| memory.range.len() > 256 * SECTION);
    let middle = |start: u64, bytes: u64| (start + bytes / 2).next_multiple_of(SECTION);
    let first = large.map(|memory| middle(memory.range.start, memory.range.len()));
    first.into_iter().flat_map(|first| (0..4).map(move |section| first + section * SECTION))
}

/// Bytes of RAM the guest has.
fn total_memory() -> u64 {
    topology().nodes().map(|node| topology().memory_bytes(node)).sum()
}

static IN_HANDLER: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicU64 = AtomicU64::new(0);

fn allocate_in_handler(_: &mut TrapFrame) {
    for size in [4096, 20_000, 1 << 21] {
        let p = service().contigmalloc(size, &M_TEST, MallocFlags::NOWAIT, 0, u64::MAX, 1, 0);
        if !p.is_null() {
            IN_HANDLER.fetch_add(1, Ordering::Relaxed);
            // SAFETY: nobody else uses it.
            unsafe { service().contigfree(p, size, &M_TEST) };
        }
    }
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

fn handlers_get_what_is_free_at_once() -> Outcome {
    static REGISTERED: spin::Once<()> = spin::Once::new();
    if REGISTERED.get().is_none() {
        register(HANDLER, allocate_in_handler)?;
        REGISTERED.call_once(|| ());
    }
    let before = IN_HANDLER.load(Ordering::Relaxed);
    check_on_every_cpu(|_| raise_and_wait(HANDLER, &HANDLED))?;
    let got = IN_HANDLER.load(Ordering::Relaxed) - before;
    let wanted = 3 * cpus::online().count();
    check!(got >= wanted, "handlers got {got} of {wanted} runs");
    Ok(())
}

tests!("contig":
    the_manuals_example_is_served,
    large_blocks_are_one_piece_of_ram,
    cpus_share_buffers_by_physical_address,
    every_cpu_gets_runs_of_its_own_from_the_nodes_it_names,
    pages_move_out_of_the_way,
    handlers_get_what_is_free_at_once,
    a_request_takes_less_than_a_millisecond_of_instructions,
);
