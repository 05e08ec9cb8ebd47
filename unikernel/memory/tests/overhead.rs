//! How much memory is held for what is in use: figures that design decides, not luck, so they are tested.

use std::thread;

use quarry_memory::frame::{FRAME_BYTES, METADATA_BYTES};
use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, Gfp, Order, Topology};

/// Bytes that are not free.
fn held(hosted: &'static Hosted) -> u64 {
    let rows = hosted.service().statistics();
    rows.total - rows.free - rows.deferred
}

/// George Marsaglia's xorshift64, from a fixed seed.
struct Random(u64);

impl Random {
    /// 8 to 4095 bytes, every octave as often as any other.
    fn size(&mut self) -> u64 {
        let octave = 3 + self.below(9);
        (1 << octave) + self.below(1 << octave)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Objects of 8 to 4095 bytes, every octave as often as any other, replaced at random until nothing tells how they came:
/// rounding up to classes, slabs partly in use and what CPUs and depots keep included.
#[test]
fn a_random_mix_of_256_mib_holds_at_most_fifteen_hundredths_more() {
    let topology = Topology::builder().node(1 << 30, 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    // SAFETY: the test frees what it allocated, once.
    let free = |object| unsafe { service.kfree(object) };
    let before = held(hosted);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut objects: Vec<(*mut u8, u64)> = Vec::new();
    let mut live = 0;
    let mut allocate = |live: &mut u64| {
        let size = random.size();
        *live += size;
        (service.kmalloc(size as usize, Gfp::KERNEL), size, random.below(1 << 32))
    };
    while live < 256 << 20 {
        let (object, size, _) = allocate(&mut live);
        objects.push((object, size));
    }
    for _ in 0..5 * objects.len() {
        let (object, size, which) = allocate(&mut live);
        let place = which as usize % objects.len();
        let (old, gone) = std::mem::replace(&mut objects[place], (object, size));
        assert!(!object.is_null(), "there is a gigabyte");
        free(old);
        live -= gone;
    }
    let held = held(hosted) - before;
    assert!(held * 100 <= live * 115, "{held} bytes for {live}: {:.3} each", held as f64 / live as f64);
    for (object, _) in objects {
        free(object);
    }
}

/// Every CPU of a machine of four, on two nodes, fills and empties so much memory with objects, after all memory was in
/// use once. Returns what the service has for itself then, with tables for all frames, in millionths of all memory.
fn metadata_share(memory: u64, objects: u64) -> u64 {
    let topology = Topology::builder().node(memory / 2, 2).node(memory / 2, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    let use_all = || {
        assert!(hosted.run_on(CpuId(0)));
        let take = || service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::ZERO);
        let all: Vec<_> = std::iter::from_fn(take).collect();
        for page in all {
            service.__free_pages(page, Order::ZERO);
        }
    };
    let use_objects = |cpu| {
        assert!(hosted.run_on(CpuId(cpu)));
        let (mut random, mut live) = (Random(0x9e37_79b9_7f4a_7c15 + u64::from(cpu)), 0);
        let mut taken = Vec::new();
        while live < objects / 4 {
            let size = random.size();
            live += size;
            taken.push(service.kmalloc(size as usize, Gfp::KERNEL));
        }
        for object in taken {
            // SAFETY: each was allocated above, and is freed once.
            unsafe { service.kfree(object) };
        }
    };
    thread::scope(|scope| scope.spawn(use_all).join().expect("nothing fails"));
    for cpu in 0..4 {
        thread::scope(|scope| scope.spawn(|| use_objects(cpu)).join().expect("nothing fails"));
    }
    let (rows, metadata) = (service.statistics(), service.metadata());
    assert_eq!((metadata.total(), rows.deferred), (rows.metadata, 0));
    assert!(metadata.sets > 0 && metadata.stacks > 0, "{metadata}");
    // A process gets the tables from its operating system, and no row has them.
    assert_eq!(metadata.frame_tables, 0);
    let tables = rows.total / FRAME_BYTES as u64 * METADATA_BYTES as u64;
    (metadata.total() + tables) * 1_000_000 / rows.total
}

/// Tables of frames are 3906 of them. What is beside these hardly grows with memory, so that a small machine has more.
#[test]
fn metadata_is_four_thousandths_of_memory_and_little_more_of_less_than_4_gib() {
    for (mib, objects, most) in [(4096, 24 << 20, 4000), (2048, 24 << 20, 4075), (256, 3 << 20, 4860)] {
        let share = metadata_share(mib << 20, objects);
        assert!(share <= most, "of {mib} MiB {share} millionths are metadata, {most} at most are wanted");
    }
}
