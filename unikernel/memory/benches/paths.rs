//! What our own paths cost, hosted: `cargo bench -p quarry-memory`, under two minutes.
//!
//! One simulated machine of two nodes; the benchmark's thread is CPU 0 of node 0 unless a case says otherwise. Loops
//! are bare: nothing is checked or written beside what the call does. The same in every run: sizes come from a fixed
//! seed. (Against other allocators: `cargo bench -p quarry-peers`. In the guest: the suite.)

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use quarry_memory::hosted::{Hosted, HostedMachine, ProcessHeap};
use quarry_memory::{CpuId, Gfp, NodeId, Order, Service, SlabFlags, Topology};

#[global_allocator]
static ALLOCATOR: ProcessHeap = ProcessHeap;

const BATCH: usize = 256;
const SIZES: [usize; 4] = [8, 64, 1024, 8192];
const GIB: u64 = 1 << 30;

/// The machine, this thread being its CPU 0.
fn machine() -> &'static Hosted {
    let topology = Topology::builder().node(2 * GIB, 2).node(2 * GIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    hosted
}

fn free(service: &Service<HostedMachine>, object: *mut u8) {
    // SAFETY: the cases below free what they allocated, once.
    unsafe { service.kfree(object) };
}

/// Sizes from 8 bytes to 8 KiB, every magnitude as often as any other, in an order that a branch predictor does not
/// learn.
fn mixed_sizes() -> [usize; 1024] {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let magnitude = 3 + state % 10;
        (1 << magnitude) + (state >> 32) as usize % (1 << magnitude)
    })
}

fn pairs(criterion: &mut Criterion) {
    let service = machine().service();
    let mut group = criterion.benchmark_group("kmalloc+kfree");
    // The compiler knows the size, as it mostly does: the class is a constant.
    group.bench_function("64, constant", |bencher| {
        bencher.iter(|| free(service, black_box(service.kmalloc(64, Gfp::KERNEL))));
    });
    for size in SIZES {
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
            bencher.iter(|| free(service, black_box(service.kmalloc(black_box(size), Gfp::KERNEL))));
        });
    }
    let sizes = mixed_sizes();
    let mut next = 0;
    group.bench_function("mixed sizes", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % sizes.len();
            free(service, black_box(service.kmalloc(sizes[next], Gfp::KERNEL)));
        });
    });
    group.bench_function("100000, large", |bencher| {
        bencher.iter(|| free(service, black_box(service.kmalloc(black_box(100_000), Gfp::KERNEL))));
    });
    group.finish();

    let mut group = criterion.benchmark_group("kzalloc+kfree");
    for size in SIZES {
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
            bencher.iter(|| free(service, black_box(service.kzalloc(black_box(size), Gfp::KERNEL))));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("kmem_cache_alloc+kmem_cache_free");
    let plain = service.kmem_cache_create("plain", 64, 0, SlabFlags::NO_MERGE, None).expect("there is memory");
    let constructed = service.kmem_cache_create("constructed", 56, 0, SlabFlags::empty(), Some(|_| ()));
    for (name, cache) in [("64", plain), ("56, constructed", constructed.expect("there is memory"))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let object = black_box(service.kmem_cache_alloc(&cache, Gfp::KERNEL));
                // SAFETY: freed once.
                unsafe { service.kmem_cache_free(&cache, object) };
            });
        });
        service.kmem_cache_destroy(cache).expect("nothing is in use");
    }
    group.finish();

    let mut group = criterion.benchmark_group("kmalloc_node+kfree");
    for (name, node) in [("64, own node", NodeId(0)), ("64, other node", NodeId(1))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| free(service, black_box(service.kmalloc_node(64, Gfp::KERNEL, black_box(node)))));
        });
    }
    group.finish();
}

fn reallocations(criterion: &mut Criterion) {
    let service = machine().service();
    let mut group = criterion.benchmark_group("krealloc");
    let grow = |sizes: &[usize]| {
        let mut object = std::ptr::null_mut();
        for &size in sizes {
            // SAFETY: the object is passed on from call to call.
            object = unsafe { service.krealloc(object, size, Gfp::KERNEL) };
        }
        free(service, black_box(object));
    };
    group.bench_function("in place", |bencher| bencher.iter(|| grow(black_box(&[100, 104, 108, 112]))));
    group.bench_function("16 doubled to 4096", |bencher| {
        bencher.iter(|| grow(black_box(&[16, 32, 64, 128, 256, 512, 1024, 2048, 4096])));
    });
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    let service = machine().service();
    let mut group = criterion.benchmark_group(format!("batch of {BATCH}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut objects = Vec::with_capacity(BATCH);
    for size in SIZES {
        group.bench_with_input(BenchmarkId::new("first in, first out", size), &size, |bencher, &size| {
            bencher.iter(|| {
                objects.extend((0..BATCH).map(|_| service.kmalloc(black_box(size), Gfp::KERNEL)));
                objects.drain(..).for_each(|object| free(service, object));
            });
        });
        group.bench_with_input(BenchmarkId::new("last in, first out", size), &size, |bencher, &size| {
            bencher.iter(|| {
                objects.extend((0..BATCH).map(|_| service.kmalloc(black_box(size), Gfp::KERNEL)));
                while let Some(object) = objects.pop() {
                    free(service, object);
                }
            });
        });
    }
    group.finish();
}

/// Objects that another thread allocated.
struct Batch(Vec<*mut u8>);

// SAFETY: objects of the service are not bound to a thread, and a batch owns its objects.
unsafe impl Send for Batch {}

/// Times frees of objects that a thread on `allocating` allocates; only the frees are timed, one an iteration.
fn remote_frees(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, hosted: &'static Hosted, allocating: CpuId) {
    let service = hosted.service();
    let (full, to_free) = mpsc::sync_channel::<Batch>(1);
    let (empty, to_fill) = mpsc::sync_channel::<Batch>(1);
    let partner = thread::spawn(move || {
        assert!(hosted.run_on(allocating));
        for Batch(mut objects) in to_fill {
            objects.extend((0..BATCH).map(|_| service.kmalloc(64, Gfp::KERNEL)));
            if full.send(Batch(objects)).is_err() {
                return;
            }
        }
    });
    let mut spare = Some(Batch(Vec::with_capacity(BATCH)));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut timed = Duration::ZERO;
            for batch in 0..iterations.div_ceil(BATCH as u64) {
                empty.send(spare.take().expect("it comes back below")).expect("the partner lives");
                let Batch(mut objects) = to_free.recv().expect("the partner lives");
                let wanted = (iterations - batch * BATCH as u64).min(BATCH as u64) as usize;
                let start = Instant::now();
                objects.drain(..wanted).for_each(|object| free(service, object));
                timed += start.elapsed();
                objects.drain(..).for_each(|object| free(service, object));
                spare = Some(Batch(objects));
            }
            timed
        });
    });
    drop(empty);
    partner.join().expect("the partner does not panic");
}

fn other_threads(criterion: &mut Criterion) {
    let hosted = machine();
    let mut group = criterion.benchmark_group("kfree of another thread's 64 bytes");
    remote_frees(&mut group, "of a CPU of the same node", hosted, CpuId(1));
    remote_frees(&mut group, "of a CPU of another node", hosted, CpuId(2));
    group.finish();
}

fn pages(criterion: &mut Criterion) {
    let hosted = machine();
    let mut group = criterion.benchmark_group("alloc_pages+free_pages");
    for order in [0, 3, 9].map(|order| Order::new(order).expect("at most the largest")) {
        group.bench_with_input(BenchmarkId::from_parameter(order), &order, |bencher, &order| {
            bencher.iter(|| {
                let block = hosted.alloc_pages(black_box(order)).expect("memory is free");
                hosted.free_pages(black_box(block), order);
            });
        });
    }
    group.finish();

    // Mostly the kernel's time: hosted, each page is a call of mprotect.
    let service = hosted.service();
    let mut group = criterion.benchmark_group("vmalloc+vfree");
    for pages in [1, 16] {
        group.bench_with_input(BenchmarkId::new("pages", pages), &pages, |bencher, &pages| {
            bencher.iter(|| {
                let memory = black_box(service.vmalloc(black_box(pages) << 12, Gfp::KERNEL));
                // SAFETY: freed once.
                unsafe { service.vfree(memory) };
            });
        });
    }
    group.finish();
}

fn global_allocator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("global allocator");
    group.bench_function("Box of 64", |bencher| bencher.iter(|| drop(black_box(Box::new([0u8; 64])))));
    group.bench_function("String", |bencher| bencher.iter(|| drop(black_box(String::from(black_box("a few words"))))));
    group.bench_function("Vec grown to 1000", |bencher| {
        bencher.iter(|| {
            let mut numbers = Vec::new();
            (0..1000u32).for_each(|number| numbers.push(black_box(number)));
            numbers
        });
    });
    group.bench_function("8 MiB", |bencher| bencher.iter(|| drop(black_box(Vec::<u8>::with_capacity(8 << 20)))));
    group.finish();
}

criterion_group! {
    name = paths;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(10_000);
    targets = pairs, reallocations, batches, other_threads, pages, global_allocator
}
criterion_main!(paths);
