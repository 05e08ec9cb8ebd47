//! The reports as scripts see them: each is read by a strict little parser, and held against the rows of
//! [`Statistics`](quarry_memory::statistics::Statistics) and against the numbers it gives one by one.

use std::collections::BTreeMap;

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::statistics::{
    Buddyinfo, Hardware, LockCounts, Meminfo, NodeNumastat, Numastat, Pagetypeinfo, PoolBytes, Report, Rows, Slabinfo,
    Vmstat, Zoneinfo,
};
use quarry_memory::vm::VmPage;
use quarry_memory::zone::ZoneKind;
use quarry_memory::{CpuId, FRAME_BYTES, Gfp, NodeId, Order, Service, SlabFlags, Topology};

const MIB: u64 = 1 << 20;
const PAGE: u64 = FRAME_BYTES as u64;

/// A machine whose two nodes have memory in all zones, with all kinds of things in use and cached.
fn busy() -> &'static Hosted {
    let topology = Topology::builder().node(5 << 30, 2).node(512 * MIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    let inodes = service.kmem_cache_create("inode_cache", 600, 0, SlabFlags::RECLAIM_ACCOUNT, None);
    let inodes = inodes.expect("there is memory");
    for _ in 0..20 {
        assert!(!service.kmem_cache_alloc(&inodes, Gfp::KERNEL).is_null());
    }
    assert!(hosted.run_on(CpuId(0)));
    // What pools keep back stays when their handles go.
    let _ = service.mempool_create_kmalloc_pool(3, 100).expect("there is memory");
    let _ = service.mempool_create_kmalloc_pool(2, 20_000).expect("there is memory");
    let _ = service.mempool_create_slab_pool(5, &inodes).expect("there is memory");
    let _ = service.mempool_create_page_pool(4, Order::new(1).expect("it exists")).expect("there is memory");
    let object = service.vm_object(None).expect("there is memory");
    for index in 0..30 {
        drop(object.fault(index).expect("there is memory"));
    }
    assert!((0..10).all(|index| object.lock().page(index).is_some_and(VmPage::cache)));
    std::mem::forget(object);
    for cpu in 0..4 {
        assert!(hosted.run_on(CpuId(cpu)));
        // A second set of the same CPU, with pages of its own.
        let second = std::thread::spawn(move || {
            assert!(hosted.run_on(CpuId(cpu)));
            let page = hosted.alloc_pages(Order::ZERO).expect("there is memory");
            hosted.free_pages(page, Order::ZERO);
        });
        second.join().expect("it does not panic");
        for size in [8, 96, 100, 1000, 5000, 8192, 20_000] {
            let objects: Vec<_> = (0..50).map(|_| service.kmalloc(size, Gfp::KERNEL)).collect();
            for object in objects.into_iter().skip(usize::from(cpu) + 1) {
                // SAFETY: the object is this test's, and freed once.
                unsafe { service.kfree(object) };
            }
        }
        assert!(!service.kmalloc_node(64, Gfp::KERNEL, NodeId(1)).is_null());
        assert!(!service.kmalloc(64, Gfp::KERNEL | Gfp::DMA).is_null());
        assert!(service.alloc_pages(Gfp::KERNEL, Order::new(5).expect("it exists")).is_some());
        // What an idle CPU does.
        assert!(service.zero_idle());
    }
    hosted
}

type Values = BTreeMap<(String, String), u64>;

/// The numbers a report gives one by one.
fn values(report: &impl Report) -> Values {
    let mut values = Values::new();
    report.for_each_value(&mut |of, name, value| {
        let before = values.insert((of.to_string(), name.to_string()), value);
        assert_eq!(before, None, "{of} {name} is there twice");
    });
    values
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn key(of: &str, name: &str) -> (String, String) {
    (of.to_owned(), name.to_owned())
}

/// `name value`, and `name: value kB`, on each line.
fn read_lines(text: &str) -> Values {
    let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, value] => (key("", name), number(value)),
        [name, value, "kB"] => (key("", name.strip_suffix(':').expect("a colon")), number(value)),
        _ => panic!("{line:?}"),
    };
    text.lines().map(line).collect()
}

/// The columns of slabinfo by the names its second line gives them.
fn read_slabinfo(text: &str) -> Values {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("slabinfo - version: 2.1"));
    let head = lines.next().and_then(|line| line.strip_prefix("# name ")).expect("a line of columns");
    let columns: Vec<&str> = head.split_whitespace().collect();
    let mut values = Values::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.len(), columns.len() + 1, "{line:?}");
        for (column, word) in columns.iter().zip(&words[1..]) {
            match column.strip_prefix('<').and_then(|column| column.strip_suffix('>')) {
                Some(column) => drop(values.insert(key(words[0], column), number(word))),
                None => assert_eq!(column, word),
            }
        }
    }
    values
}

/// `Node 0, zone   DMA32   1   2 ...`.
fn read_buddyinfo(text: &str) -> Values {
    let mut values = Values::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["Node", node, "zone", zone, blocks @ ..] = &words[..] else { panic!("{line:?}") };
        assert_eq!(blocks.len(), Order::COUNT, "{line:?}");
        for (order, word) in blocks.iter().enumerate() {
            values.insert(key(&format!("Node {node} zone {zone}"), &order.to_string()), number(word));
        }
    }
    values
}

/// Free blocks (`Node    0, zone    DMA32, type      Movable    1   2 ...`) and pageblocks (`Node 0, zone    DMA32   1 ...`).
fn read_pagetypeinfo(text: &str) -> Values {
    let mut values = Values::new();
    let (mut orders, mut types) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] | ["Page" | "Pages", .., "9" | "512"] => {}
            ["Free", "pages", "count", "per", "migrate", "type", "at", "order", ref names @ ..] => {
                orders = names.to_vec();
            }
            ["Number", "of", "blocks", "type", ref names @ ..] => types = names.to_vec(),
            ["Node", node, "zone", zone, "type", mobility, ref numbers @ ..] if numbers.len() == orders.len() => {
                let of = format!("Node {node} zone {zone} type {mobility}");
                values.extend(orders.iter().zip(numbers).map(|(order, word)| (key(&of, order), number(word))));
            }
            ["Node", node, "zone", zone, ref numbers @ ..] if numbers.len() == types.len() => {
                let of = format!("Node {node} zone {zone}");
                values.extend(types.iter().zip(numbers).map(|(name, word)| (key(&of, name), number(word))));
            }
            _ => panic!("{line:?}"),
        }
    }
    values
}

fn read_zoneinfo(text: &str) -> Values {
    let mut values = Values::new();
    let (mut zone, mut node, mut of) = (String::new(), String::new(), String::new());
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["Node", number, "zone", kind] => {
                zone = format!("Node {number} zone {kind}");
                node = format!("Node {}", number.strip_suffix(',').expect("a comma"));
                of.clone_from(&zone);
            }
            ["per-node", "stats"] => of.clone_from(&node),
            ["pages", "free", value] => {
                of.clone_from(&zone);
                values.insert(key(&of, "free"), number(value));
            }
            ["pagesets"] => {}
            ["protection:", ref amounts @ ..] if amounts.len() == ZoneKind::COUNT => {
                for (kind, amount) in ZoneKind::ALL.iter().zip(amounts) {
                    let amount = number(amount.trim_matches(['(', ',', ')']));
                    values.insert(key(&zone, &format!("protection {kind}")), amount);
                }
            }
            ["cpu:", cpu] => of = format!("{zone}, cpu {cpu}"),
            ["start_pfn:", value] => drop(values.insert(key(&zone, "start_pfn"), number(value))),
            [name, value] => drop(values.insert(key(&of, name.trim_end_matches(':')), number(value))),
            _ => panic!("{line:?}"),
        }
    }
    values
}

fn read_numastat(text: &str) -> Values {
    let mut lines = text.lines();
    let nodes: Vec<&str> = lines.next().expect("a line of nodes").split_whitespace().collect();
    let mut values = Values::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.len(), nodes.len() + 1, "{line:?}");
        for (node, word) in nodes.iter().zip(&words[1..]) {
            values.insert(key(node, words[0]), number(word));
        }
    }
    values
}

fn sum(values: &Values, name: &str) -> u64 {
    values.iter().filter(|((_, it), _)| it == name).map(|(_, value)| value).sum()
}

fn check(report: &impl Report, read: impl Fn(&str) -> Values) -> Values {
    let text = report.to_string();
    assert!(text.ends_with('\n'));
    let read = read(&text);
    assert_eq!(read, values(report), "what {} says and what is read there", report.name());
    read
}

fn service() -> &'static Service<HostedMachine> {
    busy().service()
}

#[test]
fn the_rows_add_up_and_name_every_byte_once() {
    let service = service();
    let statistics = service.statistics();
    assert!(statistics.adds_up() && !statistics.approximate, "{statistics:#?}");
    let values = check(&Rows(service), read_lines);
    assert_eq!(values.values().sum::<u64>(), 2 * statistics.total);
    assert!(values.values().all(|&bytes| bytes > 0 || bytes == statistics.reserved), "{statistics:#?}");
    let kept = service.pool_bytes();
    let inode = service.slabs().find(|slab| slab.name().to_string() == "inode_cache").expect("it was made").object_size;
    let expected = PoolBytes { objects: 3 * 112 + 5 * inode, large: 2 * 32_768, pages: 4 * 2 * PAGE };
    assert_eq!((kept, statistics.pool), (expected, expected.total()));
    // Of 20 000 bytes each, so many of which four CPUs kept.
    assert_eq!(statistics.large, (1 + 2 + 3 + 4) * 32_768);
    assert_eq!((statistics.object_pages, statistics.object_cache), (20 * PAGE, 10 * PAGE));
    let objects = statistics.slab_in_use + statistics.object_pages;
    let in_use = objects + statistics.pages_in_use + statistics.large + statistics.pool;
    assert_eq!(statistics.in_use(), in_use);
}

#[test]
fn slabinfo_counts_every_object_of_the_rows() {
    let service = service();
    let slabs = check(&Slabinfo(service), read_slabinfo);
    let rows = service.statistics();
    let bytes = |column: &str| -> u64 {
        let of = slabs.iter().filter(|((_, name), _)| name == column);
        of.map(|((cache, _), value)| value * slabs[&key(cache, "objsize")]).sum()
    };
    // Objects that pools keep back are active, as in Linux.
    let active = rows.slab_in_use + service.pool_bytes().objects;
    assert_eq!(bytes("active_objs"), active);
    assert_eq!(service.count_objects_in_use(), active);
    assert_eq!(bytes("sharedavail"), rows.depots);
    assert_eq!(bytes("num_objs"), active + rows.per_cpu_magazines + rows.depots + rows.slab_free);
    for ((cache, column), slabs_there) in &slabs {
        if column == "num_slabs" {
            assert_eq!(slabs_there * slabs[&key(cache, "objperslab")], slabs[&key(cache, "num_objs")]);
            assert!(slabs[&key(cache, "active_slabs")] <= *slabs_there);
        }
    }
    // 50 objects of 100 bytes were taken on each of four CPUs, and 1, 2, 3 and 4 of them kept; a pool keeps 3 back.
    assert_eq!(slabs[&key("kmalloc-112", "active_objs")], 1 + 2 + 3 + 4 + 3);
    assert_eq!(slabs[&key("dma-kmalloc-64", "active_objs")], 4);
    assert_eq!(slabs[&key("inode_cache", "active_objs")], 20 + 5);
}

#[test]
fn the_empty_slabs_a_depot_keeps_are_not_active() {
    let topology = Topology::builder().node(64 * MIB, 1).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    // More than a magazine and a depot's stack hold, so that whole slabs come back.
    let objects: Vec<_> = (0..100).map(|_| service.kmalloc(8192, Gfp::KERNEL)).collect();
    for object in objects {
        // SAFETY: the object is this test's, and freed once.
        unsafe { service.kfree(object) };
    }
    let slabs = values(&Slabinfo(service));
    let column = |name| slabs[&key("kmalloc-8k", name)];
    assert!(column("active_slabs") > 0);
    assert_eq!((column("active_objs"), column("num_slabs") - column("active_slabs")), (0, 2));
}

#[test]
fn the_blocks_of_buddyinfo_are_the_free_pages_of_zoneinfo_that_are_not_deferred() {
    let service = service();
    let blocks = check(&Buddyinfo(service), read_buddyinfo);
    let zones = check(&Zoneinfo(service), read_zoneinfo);
    let rows = service.statistics();
    let in_blocks: u64 = blocks.iter().map(|((_, order), blocks)| blocks << number(order)).sum();
    assert_eq!(in_blocks * PAGE, rows.free);
    assert_eq!(sum(&zones, "nr_deferred") * PAGE, rows.deferred);
    assert_eq!(sum(&zones, "free") * PAGE, rows.free + rows.deferred);
    assert_eq!(sum(&zones, "count") * PAGE, rows.per_cpu_lists);
    assert_eq!(sum(&zones, "present") * PAGE, rows.total);
    assert_eq!((sum(&zones, "present") - sum(&zones, "managed")) * PAGE, rows.reserved);
    for ((of, name), spanned) in zones.iter().filter(|((_, name), _)| name == "spanned") {
        assert!(zones[&key(of, "present")] <= *spanned, "{of} {name}");
    }
    assert_eq!(zones[&key("Node 0, zone Normal", "start_pfn")], (4 << 30) / PAGE);
    // Two CPUs of node 0 hold pages of its highest zone, and none of the others.
    assert!(zones[&key("Node 0, zone Normal, cpu 1", "high")] > 0);
    assert!(!zones.contains_key(&key("Node 0, zone DMA32, cpu 1", "high")));
}

#[test]
fn pagetypeinfo_parts_the_blocks_of_buddyinfo_by_mobility() {
    let service = service();
    let types = check(&Pagetypeinfo(service), read_pagetypeinfo);
    for ((zone, order), blocks) in values(&Buddyinfo(service)) {
        let of_type = |mobility| types[&key(&format!("{zone}, type {mobility}"), &order)];
        assert_eq!(["Unmovable", "Movable", "Reclaimable"].map(of_type).iter().sum::<u64>(), blocks, "{zone} {order}");
    }
    assert!(sum(&types, "Unmovable") > 0 && sum(&types, "Movable") > 0);
}

#[test]
fn meminfo_and_vmstat_agree_with_the_rows() {
    let service = service();
    let memory = check(&Meminfo(service), read_lines);
    let counters = check(&Vmstat(service), read_lines);
    let rows = service.statistics();
    let kib = |name: &str| memory[&key("", name)] * 1024;
    assert_eq!(kib("MemTotal"), rows.total - rows.reserved);
    assert_eq!(kib("MemFree"), rows.free + rows.deferred);
    let slab = rows.slab_in_use
        + service.pool_bytes().objects
        + rows.per_cpu_magazines
        + rows.depots
        + rows.slab_free
        + rows.slab_waste;
    assert_eq!((kib("Slab"), kib("SReclaimable") + kib("SUnreclaim")), (slab, slab));
    let zones = values(&Zoneinfo(service));
    let kept = |zone: &str, high: u64| {
        let spared = ["DMA", "DMA32", "Normal"].map(|kind| zones[&key(zone, &format!("protection {kind}"))]);
        (high + spared.into_iter().max().unwrap_or(0)).min(zones[&key(zone, "managed")])
    };
    let watermarks = zones.iter().filter(|((zone, name), _)| name == "high" && !zone.contains("cpu"));
    let kept: u64 = watermarks.map(|((zone, _), &high)| kept(zone, high)).sum();
    let low: u64 = zones.iter().filter(|((_, name), _)| name == "low").map(|(_, low)| low * PAGE).sum();
    let reclaimable = kib("SReclaimable");
    assert!(reclaimable > 0 && kib("SUnreclaim") > 0);
    let shrinkable = reclaimable - low.min(reclaimable / 2);
    assert_eq!(kib("Cached"), rows.object_cache);
    assert_eq!(kib("MemAvailable"), kib("MemFree") + kib("Cached") + shrinkable - kept * PAGE);
    let pages = |name: &str| counters[&key("", name)] * PAGE;
    assert_eq!((pages("nr_free_pages"), pages("nr_deferred")), (rows.free + rows.deferred, rows.deferred));
    assert_eq!((pages("nr_slab_reclaimable"), pages("nr_slab_unreclaimable")), (reclaimable, slab - reclaimable));
    assert_eq!(sum(&zones, "nr_slab_reclaimable") * PAGE, reclaimable);
    assert_eq!(counters[&key("", "magazine_refill")], service.slow_paths().refills);
}

#[test]
fn numastat_has_a_column_for_each_node_and_each_node_a_file() {
    let service = service();
    let nodes = check(&Numastat(service), read_numastat);
    let counters = read_lines(&Vmstat(service).to_string());
    for name in ["numa_hit", "numa_miss", "numa_foreign"] {
        assert_eq!(counters[&key("", name)], sum(&nodes, name), "{name}");
    }
    for (there, here) in
        [("numa_interleave", "interleave_hit"), ("numa_local", "local_node"), ("numa_other", "other_node")]
    {
        assert_eq!(counters[&key("", there)], sum(&nodes, here), "{there}");
    }
    assert!(sum(&nodes, "numa_hit") > 0);
    for node in [0, 1] {
        let file = read_lines(&NodeNumastat(service, NodeId(node)).to_string());
        let column = nodes.iter().filter(|((it, _), _)| *it == format!("node{node}"));
        assert!(column.map(|((_, name), value)| (name, value)).eq(file.iter().map(|((_, name), value)| (name, value))));
    }
}

#[test]
fn numactl_says_how_much_of_each_node_is_free() {
    let hosted = busy();
    let hardware = Hardware { service: hosted.service(), topology: hosted.topology() };
    let text = hardware.to_string();
    let values = values(&hardware);
    for node in hosted.topology().nodes() {
        let mb = |what: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{node} {what}: ")));
            number(line.and_then(|line| line.strip_suffix(" MB")).expect("the line is there"))
        };
        let free: u64 = hosted.service().zones().filter(|it| it.node == node).map(|it| u64::from(it.available())).sum();
        assert_eq!((mb("size"), mb("free")), (hosted.topology().memory_bytes(node) >> 20, (free * PAGE) >> 20));
        assert_eq!([mb("size"), mb("free")], ["size", "free"].map(|what| values[&key(&node.to_string(), what)]));
    }
    assert!(text.contains("node distances:\n"));
}

#[test]
fn who_shrinks_depots_waits_for_none_that_was_not_used_since_it_was_shrunk() {
    let topology = Topology::builder().node(256 * MIB, 1).node(256 * MIB, 1).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    let cache = service.kmem_cache_create("shrunk", 200, 0, SlabFlags::NO_MERGE, None).expect("there is memory");
    let use_and_return = || {
        let objects: Vec<_> = (0..500).map(|_| service.kmem_cache_alloc(&cache, Gfp::KERNEL)).collect();
        // SAFETY: the objects are freed once, here.
        objects.into_iter().for_each(|object| unsafe { service.kmem_cache_free(&cache, object) });
        service.drain_local();
    };
    let locks_taken_to_shrink = || {
        let before = service.lock_counts();
        service.shrink_depots();
        service.lock_counts().since(before).depots
    };
    for _ in 0..2 {
        use_and_return();
        let used = locks_taken_to_shrink();
        assert!((1..=2).contains(&used), "the cache's depot on one node, and nobody else's: {used}");
        assert_eq!(locks_taken_to_shrink(), 0, "it has nothing since");
        assert_eq!(service.statistics().depots + service.statistics().slab_free, 0);
    }
    service.kmem_cache_destroy(cache).expect("no object is in use");
}

#[test]
fn locks_are_taken_once_a_batch_and_counted() {
    let topology = Topology::builder().node(512 * MIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    let service = hosted.service();
    let batch = |count: usize| {
        let objects: Vec<_> = (0..count).map(|_| service.kmalloc(64, Gfp::KERNEL)).collect();
        // SAFETY: the objects are freed once, here.
        objects.into_iter().for_each(|object| unsafe { service.kfree(object) });
    };
    let taken_by = |work: &dyn Fn()| {
        let before = service.lock_counts();
        work();
        service.lock_counts().since(before)
    };
    // So that the stacks are large enough.
    (0..8).for_each(|_| batch(2000));
    let pairs = taken_by(&|| (0..1000).for_each(|_| batch(1)));
    assert_eq!(pairs, LockCounts::default(), "pairs stay on their CPU, in its magazine");
    // With 256 MiB a CPU, its stacks have a page of chunks, for 496 objects.
    let own = taken_by(&|| batch(500));
    assert_eq!((own.zones, own.depots), (0, 0), "what fits its stack stays there");
    assert!((500 / 58..=500 / 15).contains(&own.stacks), "{own:?}");
    let beyond = taken_by(&|| batch(2000));
    assert_eq!(beyond.zones, 0);
    assert!((2..=2000 / 100).contains(&beyond.depots), "objects go to the depot and back by many: {beyond:?}");
    let large = taken_by(&|| service.free_pages(service.get_free_pages(Gfp::KERNEL, Order::MAX), Order::MAX));
    assert_eq!((large.zones, large.depots, large.stacks), (2, 0, 0), "once to take it, once to give it back");
}
