//! How much memory is held for what is in use: figures that design decides, not luck, so they are tested.

use quarry_memory::hosted::Hosted;
use quarry_memory::{CpuId, Gfp, Topology};

/// Bytes that are not free.
fn held(hosted: &'static Hosted) -> u64 {
    let rows = hosted.service().statistics();
    rows.total - rows.free - rows.deferred
}

/// George Marsaglia's xorshift64, from a fixed seed.
struct Random(u64);

impl Random {
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
        let octave = 3 + random.below(9);
        let size = (1 << octave) + random.below(1 << octave);
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
