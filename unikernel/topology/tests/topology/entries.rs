//! Entries whose length cannot be right: no hang, no CPU lost.

use crate::support::{GIB, discover, tables};
use crate::tables::{ENABLED, madt, madt_of, slit_of, srat};
use quarry_topology::Tables;

const RAM: &[(u64, u64)] = &[(0, GIB)];

fn madt_only(madt: &[u8]) -> crate::support::Found {
    let srat = srat().memory(0, 0, GIB).done();
    // Whatever the MADT says, its CPUs are all on the only node.
    let mut found = discover(&tables(madt, &srat, &slit_of([[10]])), RAM);
    found.warnings.retain(|warning| warning.source == quarry_topology::Source::Madt);
    found
}

#[test]
fn a_zero_length_entry_of_a_known_type_is_read_with_the_length_of_its_type() {
    let table = madt().local_apic(0, ENABLED);
    let broken = table.offset();
    let bytes = table.local_apic(1, ENABLED).local_apic(2, ENABLED).patch(broken + 1, &[0]).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 0 bytes here; assumed the 8 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 1, 2]);
}

#[test]
fn a_short_entry_of_a_known_type_is_read_with_the_length_of_its_type() {
    let table = madt().local_apic(0, ENABLED);
    let broken = table.offset();
    let bytes = table.x2apic(300, ENABLED).local_apic(2, ENABLED).patch(broken + 1, &[6]).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 9 cannot have 6 bytes here; assumed the 16 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 300, 2]);
}

#[test]
fn an_entry_that_may_or_may_not_be_short_is_read() {
    // The last two bytes of the flags look like an entry of a type not known today.
    let table = madt().local_apic(0, ENABLED);
    let broken = table.offset();
    let bytes = table.local_apic(1, 0x02ff_0000 | ENABLED).local_apic(2, ENABLED).patch(broken + 1, &[6]).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 6 bytes here; assumed the 8 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 1, 2]);
}

#[test]
fn an_entry_that_really_is_short_is_passed_over() {
    // Six bytes of a local APIC entry, and the next entry directly behind them.
    let bytes = madt().local_apic(0, ENABLED).raw(&[0, 6, 9, 9, 1, 0]).local_apic(2, ENABLED).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 6 bytes here; ignored this entry"
    );
    assert_eq!(found.apic_ids(), [0, 2]);
}

#[test]
fn a_short_last_entry_is_passed_over() {
    let found = madt_only(&madt().local_apic(0, ENABLED).raw(&[0, 6, 9, 9, 1, 0]).done());
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 6 bytes here; ignored this entry"
    );
    assert_eq!(found.apic_ids(), [0]);
}

#[test]
fn an_entry_that_runs_into_the_middle_of_another_ends_where_its_type_does() {
    let table = madt();
    let broken = table.offset();
    let bytes = (0..4).fold(table, |table, id| table.local_apic(id, ENABLED)).patch(broken + 1, &[13]).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 0 at offset 0x2c: an entry of type 0 cannot have 13 bytes here; assumed the 8 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 1, 2, 3]);
}

#[test]
fn an_entry_past_the_end_ends_where_its_type_does() {
    let table = madt().local_apic(0, ENABLED);
    let broken = table.offset();
    let bytes = table.local_apic(1, ENABLED).patch(broken + 1, &[200]).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 200 bytes here; assumed the 8 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 1]);
}

#[test]
fn an_entry_that_swallows_whole_others_ends_where_its_type_does() {
    let table = madt();
    let broken = table.offset();
    let bytes = (0..4).fold(table, |table, id| table.local_apic(id, ENABLED)).patch(broken + 1, &[24]).done();
    let found = madt_only(&bytes);
    assert_eq!(
        found.only_sentence(),
        "MADT entry 0 at offset 0x2c: an entry of type 0 cannot have 24 bytes here; assumed the 8 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 1, 2, 3]);
}

#[test]
fn an_entry_after_which_only_an_entry_past_the_end_could_follow_ends_where_its_type_does() {
    let table = madt().local_apic(0, ENABLED);
    let broken = table.offset();
    // Ten bytes after the broken entry's beginning, inside the unknown one, stands what looks like one of 200 bytes.
    let table = table.local_apic(1, ENABLED).raw(&[0x7f, 4, 0x7f, 200]).local_apic(2, ENABLED);
    let found = madt_only(&table.patch(broken + 1, &[10]).done());
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 10 bytes here; assumed the 8 bytes of its type"
    );
    assert_eq!(found.apic_ids(), [0, 1, 2]);
}

#[test]
fn an_srat_entry_past_the_end_ends_where_its_type_does() {
    let table = srat().cpu(0, 0).cpu(1, 1).memory(0, 0, GIB / 2);
    let broken = table.offset();
    let bytes = table.memory(1, GIB / 2, GIB).patch(broken + 1, &[41]).done();
    let found = discover(&tables(&madt_of([0, 1]), &bytes, &slit_of([[10, 20], [20, 10]])), RAM);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: an entry of type 1 cannot have 41 bytes here; assumed the 40 bytes of its type"
    );
    assert_eq!(found.memory(), [(0, GIB / 2, 0), (GIB / 2, GIB, 1)]);
}

#[test]
fn an_srat_entry_cut_off_by_the_end_leaves_its_memory_to_the_nearest() {
    let table = srat().cpu(0, 0).cpu(1, 1).memory(1, 0, GIB / 2);
    let bytes = table.raw(&[1, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0]).done();
    let found = discover(&tables(&madt_of([0, 1]), &bytes, &slit_of([[10, 20], [20, 10]])), RAM);
    assert_eq!(
        found.sentences(),
        [
            "SRAT entry 3 at offset 0x78: an entry of type 1 cannot have 40 bytes here; ignored the rest of the table, \
             16 bytes",
            "SRAT: no entry covers RAM [0x20000000-0x3fffffff]; assumed proximity domain 1, that of the nearest memory \
             described",
        ]
    );
    assert_eq!(found.memory(), [(0, GIB, 1)]);
    assert_eq!(found.cpu_nodes(), [0, 1]);
}

#[test]
fn an_entry_cut_off_by_the_end_is_ignored() {
    let found = madt_only(&madt().local_apic(0, ENABLED).raw(&[0, 8, 1, 1, 1]).done());
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 8 bytes here; ignored the rest of the table, 5 \
         bytes"
    );
    assert_eq!(found.apic_ids(), [0]);
}

#[test]
fn a_stray_last_byte_is_ignored() {
    let found = madt_only(&madt().local_apic(0, ENABLED).raw(&[9]).done());
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 9 cannot have 0 bytes here; ignored the rest of the table, 1 \
         bytes"
    );
    assert_eq!(found.apic_ids(), [0]);
}

#[test]
fn a_longer_entry_than_today_is_read_and_passed_over_as_it_says() {
    let found =
        madt_only(&madt().raw(&[0, 12, 0, 0, 1, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd]).local_apic(1, ENABLED).done());
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.apic_ids(), [0, 1]);
}

#[test]
fn an_unknown_type_is_passed_over_without_a_word() {
    let found = madt_only(&madt().raw(&[0x7f, 5, 1, 2, 3]).local_apic(1, ENABLED).raw(&[0x80, 2]).done());
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.apic_ids(), [1]);
}

#[test]
fn an_entry_of_an_unknown_type_shorter_than_its_own_length_ends_the_table() {
    for length in [0, 1] {
        let found = madt_only(&madt().local_apic(0, ENABLED).raw(&[0x7f, length]).local_apic(1, ENABLED).done());
        assert_eq!(
            found.only_sentence(),
            format!(
                "MADT entry 1 at offset 0x34: an entry of type 127 cannot have {length} bytes here; ignored the rest \
                 of the table, 10 bytes"
            )
        );
        assert_eq!(found.apic_ids(), [0]);
    }
}

#[test]
fn padding_with_zeros_costs_one_warning_however_long() {
    let found = madt_only(&madt().local_apic(0, ENABLED).raw(&[0; 4000]).done());
    assert_eq!(
        found.only_sentence(),
        "MADT entry 1 at offset 0x34: an entry of type 0 cannot have 0 bytes here; ignored the rest of the table, 4000 \
         bytes"
    );
    assert_eq!(found.apic_ids(), [0]);
}

#[test]
fn a_table_in_which_every_length_is_zero_loses_no_cpu_and_does_not_flood() {
    let table = (0..100).fold(madt(), |table, id| table.local_apic(id, ENABLED));
    let bytes = (0..100).fold(table, |table, entry| table.patch(44 + 8 * entry + 1, &[0])).done();
    let found = madt_only(&bytes);
    assert_eq!(found.apic_ids(), (0..100).collect::<Vec<u32>>());
    let sentences = found.sentences();
    assert_eq!(sentences.len(), 5);
    assert_eq!(sentences[4], "MADT: 96 more cases of this: impossible entry length; assumed the same as above");
}

#[test]
fn the_fifth_case_of_a_kind_is_counted() {
    let found = madt_only(&madt_of([0; 6]));
    assert_eq!(found.apic_ids(), [0]);
    let sentences = found.sentences();
    assert_eq!(sentences.len(), 5);
    assert_eq!(sentences[3], "MADT entry 4 at offset 0x4c: the CPU with APIC id 0 is listed twice; ignored this entry");
    assert_eq!(sentences[4], "MADT: 1 more case of this: CPU listed twice; assumed the same as above");
}

#[test]
fn a_zero_length_srat_entry_is_read_with_the_length_of_its_type() {
    let table = srat().cpu(0, 0).memory(0, 0, GIB / 2);
    let broken = table.offset();
    let bytes = table.memory(1, GIB / 2, GIB).cpu(1, 1).patch(broken + 1, &[0]).done();
    let found = discover(&tables(&madt_of([0, 1]), &bytes, &slit_of([[10, 20], [20, 10]])), RAM);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 2 at offset 0x68: an entry of type 1 cannot have 0 bytes here; assumed the 40 bytes of its type"
    );
    assert_eq!(found.memory(), [(0, GIB / 2, 0), (GIB / 2, GIB, 1)]);
    assert_eq!(found.cpu_nodes(), [0, 1]);
}

#[test]
fn a_short_srat_entry_is_read_with_the_length_of_its_type() {
    let bytes = srat().cpu(0, 0).cpu(1, 1).memory(0, 0, GIB).patch(48 + 1, &[12]).done();
    let found = discover(&tables(&madt_of([0, 1]), &bytes, &slit_of([[10, 20], [20, 10]])), RAM);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 0 at offset 0x30: an entry of type 0 cannot have 12 bytes here; assumed the 16 bytes of its type"
    );
    assert_eq!(found.cpu_nodes(), [0, 1]);
}

#[test]
fn a_table_of_two_thousand_entries_is_read_whole() {
    let memory = |table: crate::tables::TableWriter, index: u64| {
        table.memory(u32::from(index >= 1000), index << 20, (index + 1) << 20)
    };
    let bytes = (0..2000).fold(srat().cpu(0, 0).cpu(1, 1), memory).done();
    let madt = madt_of([0, 1]);
    let tables = Tables { madt: Some(&madt), srat: Some(&bytes), slit: None, hmat: None };
    let found = discover(&tables, &[(0, 2000 << 20)]);
    assert_eq!(found.sentences().len(), 1, "the missing SLIT alone");
    assert_eq!(found.memory(), [(0, 1000 << 20, 0), (1000 << 20, 2000 << 20, 1)]);
}
