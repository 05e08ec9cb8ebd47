//! The memory map against hand-made cases and a page-by-page model.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(start: u64, end: u64) -> PhysicalRange {
    PhysicalRange { start, end }
}

fn map(entries: &[(u64, u64, u32)]) -> MemoryMap {
    MemoryMap::from_firmware(&entries.iter().map(|&(address, end, kind)| MemoryMapEntry {
        address,
        size: end - address,
        kind,
    }))
}

fn listed(map: &MemoryMap) -> Vec<(u64, u64, RegionKind)> {
    map.regions().iter().map(|region| (region.range.start, region.range.end, region.kind)).collect()
}

#[test]
fn unsorted_overlapping_and_unaligned_entries_become_sorted_pages() {
    let map = map(&[
        (0x10_0000, 0x80_0000, 1),
        (0, 0x9_fc00, 1),
        (0x7f_e800, 0x80_0000, 2),
        (0x20_0000, 0x30_0000, 3),
        (0x28_0000, 0x2c_0000, 12),
        (0x80_0000, 0x90_0000, 1),
    ]);
    assert_eq!(
        listed(&map),
        [
            (0, 0x1000, RegionKind::Reserved),
            (0x1000, 0x9_f000, RegionKind::Usable),
            (0x10_0000, 0x20_0000, RegionKind::Usable),
            (0x20_0000, 0x28_0000, RegionKind::AcpiReclaimable),
            (0x28_0000, 0x2c_0000, RegionKind::Reserved),
            (0x2c_0000, 0x30_0000, RegionKind::AcpiReclaimable),
            (0x30_0000, 0x7f_e000, RegionKind::Usable),
            (0x7f_e000, 0x80_0000, RegionKind::Reserved),
            (0x80_0000, 0x90_0000, RegionKind::Usable),
        ]
    );
    assert_eq!(map.lost_ram(), 0);
}

#[test]
fn wrapping_and_unreachable_ranges_are_cut_and_counted() {
    let map = MemoryMap::from_firmware(
        &[
            MemoryMapEntry { address: MIB, size: u64::MAX, kind: 1 },
            MemoryMapEntry { address: u64::MAX - 10, size: u64::MAX, kind: 2 },
            MemoryMapEntry { address: 5 * MIB, size: 0, kind: 5 },
        ]
        .into_iter(),
    );
    assert_eq!(listed(&map)[1..], [(MIB, DIRECT_MAP_SIZE, RegionKind::Usable)]);
    assert_eq!(map.lost_ram(), !0xfff - DIRECT_MAP_SIZE);
}

#[test]
fn of_too_many_regions_the_smallest_are_left_out() {
    // A thousand pages of RAM with holes between them, and one region worth having at either end.
    let mut entries: Vec<_> =
        (0..1000).map(|page| (8 * MIB + page * 0x2000, 8 * MIB + page * 0x2000 + 0x1000, 1)).collect();
    entries.insert(500, (GIB, 2 * GIB, 1));
    entries.push((MIB, 2 * MIB, 1));
    entries.push((64 * MIB, 64 * MIB + 1, 3));
    let map = map(&entries);
    assert_eq!(map.regions().len(), MAX_REGIONS - CARVING_RESERVE);
    for kept in [
        (MIB, 2 * MIB, RegionKind::Usable),
        (GIB, 2 * GIB, RegionKind::Usable),
        (64 * MIB, 64 * MIB + 0x1000, RegionKind::AcpiReclaimable),
    ] {
        assert!(listed(&map).contains(&kept), "{kept:?} is missing");
    }
    assert_eq!(map.lost_ram() + map.ram(), 1000 * 0x1000 + MIB + GIB);
}

#[test]
fn allocations_keep_clear_of_what_is_avoided_claimed_and_low() {
    let mut map = map(&[(0, 0x9_f000, 1), (MIB, 128 * MIB, 1)]);
    map.claim(range(MIB, MIB + 0x1_0001));
    assert!(map.avoid(range(16 * MIB, 16 * MIB + 1)));
    assert!(map.avoid(range(18 * MIB - 1, 18 * MIB)));
    assert_eq!(map.allocate(MIB, PAGE_SIZE), Some(range(16 * MIB + 0x1000, 17 * MIB + 0x1000)));
    assert_eq!(map.allocate(1, 2 * MIB), Some(range(18 * MIB, 18 * MIB + 0x1000)));
    assert_eq!(map.largest_free(), 110 * MIB - 0x1000);
    assert_eq!(map.allocate(111 * MIB, PAGE_SIZE), None);
    // Only the DMA zone has the room, so it serves after all.
    assert_eq!(map.allocate(109 * MIB, PAGE_SIZE).unwrap().start, 18 * MIB + 0x1000);
    assert_eq!(map.allocate(3 * MIB, PAGE_SIZE), Some(range(MIB + 0x1_1000, 4 * MIB + 0x1_1000)));
    let boot: u64 = map.regions().iter().filter(|region| region.kind == RegionKind::Boot).map(|r| r.range.size()).sum();
    assert_eq!(boot, 0x1_1000 + MIB + 0x1000 + 109 * MIB + 3 * MIB, "what is avoided is not claimed");
}

#[test]
fn claims_leave_alone_what_is_no_ram() {
    let mut map = map(&[(MIB, 3 * MIB, 1), (2 * MIB, 2 * MIB + 0x1000, 2), (4 * MIB, 5 * MIB, 1)]);
    map.claim(range(MIB + 0x800, 4 * MIB + 0x800));
    assert_eq!(
        listed(&map)[1..],
        [
            (MIB, 2 * MIB, RegionKind::Boot),
            (2 * MIB, 2 * MIB + 0x1000, RegionKind::Reserved),
            (2 * MIB + 0x1000, 3 * MIB, RegionKind::Boot),
            (4 * MIB, 4 * MIB + 0x1000, RegionKind::Boot),
            (4 * MIB + 0x1000, 5 * MIB, RegionKind::Usable),
        ]
    );
}

#[test]
fn the_direct_map_covers_tables_carved_out_of_ram_but_no_device_windows() {
    let map = map(&[
        (0, 0x9_fc00, 1),
        (0xf_0000, 0x10_0000, 2),
        (MIB, 0x7ffd_0000, 1),
        (0x7ffd_0000, 0x7ffe_0000, 4),
        (0x7ffe_0000, 0x8000_0000, 2),
        (0xb000_0000, 0xc000_0000, 2),
        (0xfeff_c000, 0xff00_0000, 2),
        (4 * GIB, 6 * GIB, 1),
        (0xfd_0000_0000, 0x100_0000_0000, 2),
    ]);
    let covered = map.direct_map_ranges(range(0xa000_0010, 0xa000_0020));
    let ranges: Vec<_> = covered.regions().iter().map(|region| (region.range.start, region.range.end)).collect();
    assert_eq!(ranges, [(0, 0x8000_0000), (0xa000_0000, 0xa000_1000), (4 * GIB, 6 * GIB)]);
}

#[test]
fn the_places_to_avoid_are_bounded() {
    let mut map = map(&[(MIB, 2 * MIB, 1)]);
    for _ in 0..MAX_AVOIDED {
        assert!(map.avoid(range(MIB, 2 * MIB)));
    }
    assert!(!map.avoid(range(MIB, 2 * MIB)));
    assert_eq!(map.allocate(1, PAGE_SIZE), None);
    assert_eq!(map.largest_free(), 0);
}

/// What a page is, said by looking at every entry.
fn model(entries: &[(u64, u64, u32)], page: u64) -> Option<RegionKind> {
    if page == 0 {
        return Some(RegionKind::Reserved);
    }
    let (start, end) = (page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    let any = |kind: RegionKind| {
        entries.iter().any(|&(from, to, e820)| {
            let covers = if kind == RegionKind::Usable { from <= start && end <= to } else { from < end && start < to };
            kind_of(e820) == kind && covers
        })
    };
    [
        RegionKind::Bad,
        RegionKind::Reserved,
        RegionKind::AcpiNonVolatile,
        RegionKind::AcpiReclaimable,
        RegionKind::Usable,
    ]
    .into_iter()
    .find(|&kind| any(kind))
}

fn check_shape(map: &MemoryMap) {
    for region in map.regions() {
        assert!(region.range.start < region.range.end);
        assert_eq!((region.range.start | region.range.end) % PAGE_SIZE, 0);
    }
    for pair in map.regions().windows(2) {
        assert!(pair[0].range.end <= pair[1].range.start);
        assert!(pair[0].range.end < pair[1].range.start || pair[0].kind != pair[1].kind, "neighbours are merged");
    }
}

proptest! {
    #[test]
    fn every_page_is_what_the_most_cautious_entry_says(
        entries in proptest::collection::vec((0u64..0x4_0000, 0u64..0x1_0000, 0u32..8), 0..40)
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(start, size, kind)| (start, start + size, kind)).collect();
        // A page that two entries of RAM share is inside neither: the model speaks of whole pages of one entry.
        let map = map(&entries);
        check_shape(&map);
        for page in 0..0x60 {
            let found = map.regions().iter().find(|r| r.range.start <= page * PAGE_SIZE && page * PAGE_SIZE < r.range.end);
            prop_assert_eq!(found.map(|region| region.kind), model(&entries, page), "page {:#x}", page);
        }
    }

    #[test]
    fn any_entries_are_survived_and_allocations_are_disjoint(
        entries in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..600),
        small in proptest::collection::vec((0u64..FOUR_GIB, 0u64..GIB, 0u32..3), 0..20),
        sizes in proptest::collection::vec(0u64..64 * MIB, 0..12),
    ) {
        let all = entries.iter().chain(&small).map(|&(address, size, kind)| MemoryMapEntry { address, size, kind });
        let mut map = MemoryMap::from_firmware(&all);
        check_shape(&map);
        let before = map.clone();
        let mut taken: Vec<PhysicalRange> = Vec::new();
        for size in sizes {
            let largest = map.largest_free();
            let Some(block) = map.allocate(size, PAGE_SIZE) else {
                prop_assert!(size > largest);
                continue;
            };
            check_shape(&map);
            prop_assert!(block.size() >= size && block.start >= LOW_MEMORY_END && block.end <= FOUR_GIB);
            prop_assert!(!taken.iter().any(|other| other.overlaps(block)));
            let home = |region: &Region| {
                region.kind == RegionKind::Usable && region.range.start <= block.start && block.end <= region.range.end
            };
            prop_assert!(before.regions().iter().any(home));
            if block.size() > 0 {
                taken.push(block);
            }
        }
        check_shape(&map.direct_map_ranges(PhysicalRange { start: 0, end: 0 }));
    }
}
