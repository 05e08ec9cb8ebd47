//! CPUs: which there are, and in which order.

use crate::support::{Found, GIB, discover_from};
use crate::tables::{ENABLED, ONLINE_CAPABLE, TableWriter, madt, madt_at, madt_of};
use quarry_topology::{CpuId, DEFAULT_LOCAL_APIC_ADDRESS, LocalApicAddress, MAX_CPUS, Source, Tables};

/// Discovers from a MADT alone; keeps what is said about it.
fn found(madt: &[u8], boot_apic_id: Option<u32>) -> Found {
    let tables = Tables { madt: Some(madt), ..Tables::default() };
    let mut found = discover_from(&tables, &[(0, GIB)], boot_apic_id);
    found.warnings.retain(|warning| warning.source == Source::Madt);
    found
}

#[test]
fn cpus_come_in_the_order_of_the_table_with_the_boot_cpu_first() {
    let madt = madt_of([4, 2, 9, 1000, 0]);
    assert_eq!(found(&madt, None).apic_ids(), [4, 2, 9, 1000, 0]);
    let booted_by_9 = found(&madt, Some(9));
    assert_eq!(booted_by_9.apic_ids(), [9, 4, 2, 1000, 0]);
    assert_eq!(booted_by_9.sentences(), [""; 0]);
    assert_eq!(booted_by_9.topology.cpu_of_apic_id(1000), Some(CpuId(3)));
    assert_eq!(booted_by_9.topology.cpu_of_apic_id(5), None);
}

#[test]
fn disabled_and_merely_online_capable_cpus_are_no_cpus() {
    let madt = madt()
        .local_apic(0, ENABLED)
        .local_apic(1, 0)
        .local_apic(2, ONLINE_CAPABLE)
        .x2apic(300, ONLINE_CAPABLE)
        .local_apic(255, 0)
        .x2apic(301, ENABLED)
        .done();
    let found = found(&madt, None);
    assert_eq!(found.apic_ids(), [0, 301]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn a_cpu_listed_twice_is_taken_once() {
    let madt = madt().local_apic(0, ENABLED).local_apic(1, ENABLED).x2apic(1, ENABLED).done();
    let found = found(&madt, Some(0));
    assert_eq!(
        found.only_sentence(),
        "MADT entry 2 at offset 0x3c: the CPU with APIC id 1 is listed twice; ignored this entry"
    );
    assert_eq!(found.apic_ids(), [0, 1]);
}

#[test]
fn the_boot_cpu_listed_twice_is_told_too() {
    let found = found(&madt_of([3, 3]), Some(3));
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: the CPU with APIC id 3 is listed twice; ignored this entry"
    );
    assert_eq!(found.apic_ids(), [3]);
}

#[test]
fn a_boot_cpu_that_is_not_listed_is_added() {
    let listed = found(&madt_of([1, 2]), Some(5));
    assert_eq!(listed.only_sentence(), "MADT: the boot CPU, APIC id 5, is not listed as enabled; added it");
    assert_eq!(listed.apic_ids(), [5, 1, 2]);
    let disabled = found(&madt().local_apic(5, 0).local_apic(1, ENABLED).done(), Some(5));
    assert_eq!(disabled.apic_ids(), [5, 1]);
    assert_eq!(disabled.warnings.len(), 1);
}

#[test]
fn a_table_without_an_enabled_cpu_leaves_the_boot_cpu() {
    let unknown = found(&madt().local_apic(3, 0).done(), None);
    assert_eq!(unknown.only_sentence(), "MADT: no enabled CPU is listed; assumed the boot CPU alone");
    assert_eq!(unknown.apic_ids(), [0]);
    let known = found(&madt().done(), Some(3));
    assert_eq!(known.only_sentence(), "MADT: the boot CPU, APIC id 3, is not listed as enabled; added it");
    assert_eq!(known.apic_ids(), [3]);
}

#[test]
fn an_id_that_means_all_cpus_is_no_cpu() {
    let madt = madt().local_apic(0, ENABLED).local_apic(255, ENABLED).x2apic(u32::MAX, ENABLED).x2apic(255, ENABLED);
    let found = found(&madt.done(), None);
    assert_eq!(
        found.sentences(),
        [
            "MADT entry 1 at offset 0x34: APIC id 0xff means all CPUs and cannot be one's own; ignored this entry",
            "MADT entry 2 at offset 0x3c: APIC id 0xffffffff means all CPUs and cannot be one's own; ignored this entry",
        ]
    );
    assert_eq!(found.apic_ids(), [0, 255], "255 is an ordinary x2APIC id");
}

#[test]
fn more_cpus_than_can_be_kept_cost_one_warning_and_never_the_boot_cpu() {
    let madt = (0..300).fold(madt(), |madt: TableWriter, id| madt.x2apic(id, ENABLED)).done();
    let found = found(&madt, Some(299));
    assert_eq!(
        found.only_sentence(),
        "MADT entry 255 at offset 0x101c: more than 256 CPUs are listed; left out 44, beginning with this entry"
    );
    assert_eq!(found.apic_ids().len(), MAX_CPUS);
    assert_eq!(found.apic_ids()[..2], [299, 0]);
    assert_eq!(found.apic_ids()[255], 254);
}

#[test]
fn the_local_apic_address_is_the_tables_or_its_override() {
    let plain = found(&madt_at(0xfec0_0000, 0).local_apic(0, ENABLED).done(), None);
    assert_eq!(plain.topology.local_apic_address(), LocalApicAddress(0xfec0_0000));
    assert!(!plain.topology.has_legacy_pics());
    let overridden = found(&madt().local_apic(0, ENABLED).local_apic_address(0x12_3456_7000).done(), None);
    assert_eq!(overridden.topology.local_apic_address(), LocalApicAddress(0x12_3456_7000));
    assert!(overridden.topology.has_legacy_pics());
    assert_eq!(overridden.sentences(), [""; 0]);
}

#[test]
fn an_impossible_local_apic_address_becomes_the_usual_one() {
    let zero = found(&madt_at(0, 1).local_apic(0, ENABLED).done(), None);
    assert_eq!(zero.only_sentence(), "MADT: local APIC address 0x0 is 0 or not a page's; assumed 0xfee00000");
    assert_eq!(zero.topology.local_apic_address(), DEFAULT_LOCAL_APIC_ADDRESS);
    let odd = found(&madt().local_apic(0, ENABLED).local_apic_address(0xfee0_0010).done(), None);
    assert_eq!(
        odd.only_sentence(),
        "MADT entry 1 at offset 0x34: local APIC address 0xfee00010 is 0 or not a page's; assumed 0xfee00000"
    );
    assert_eq!(odd.topology.local_apic_address(), DEFAULT_LOCAL_APIC_ADDRESS);
}
