//! Images made by hand: one that is right, every way of being wrong, and random damage.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::IMAGE_BASE;

const DYNAMIC_OFFSET: usize = 0x2800;
const RELOCATION_OFFSET: usize = 0x2400;
const FILE_SIZE: usize = 0x3200;

/// Where the number of program header `index` that starts at `field` lies in the file.
fn field(index: usize, field: usize) -> usize {
    FILE_HEADER_SIZE + index * PROGRAM_HEADER_SIZE + field
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_u64(file: &mut [u8], at: usize, value: u64) {
    put(file, at, &value.to_le_bytes());
}

fn put_header(file: &mut [u8], index: usize, kind: u32, flags: u32, numbers: [u64; 4]) {
    let [offset, address, file_size, memory_size] = numbers;
    put(file, field(index, 0), &kind.to_le_bytes());
    put(file, field(index, 4), &flags.to_le_bytes());
    for (at, value) in [(8, offset), (16, address), (24, address), (32, file_size), (40, memory_size), (48, 0x1000)] {
        put_u64(file, field(index, at), value);
    }
}

/// An image linked at `base`: code, constants with one relocation and the dynamic table, data with bss.
fn image(base: u64) -> Vec<u8> {
    let mut file = vec![0; FILE_SIZE];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &TYPE_POSITION_INDEPENDENT.to_le_bytes());
    put(&mut file, 18, &MACHINE_X86_64.to_le_bytes());
    put_u64(&mut file, 24, base + 0x10);
    put_u64(&mut file, 32, FILE_HEADER_SIZE as u64);
    put_u64(&mut file, 40, FILE_SIZE as u64 - 2 * SECTION_HEADER_SIZE);
    put(&mut file, 54, &(PROGRAM_HEADER_SIZE as u16).to_le_bytes());
    put(&mut file, 56, &4u16.to_le_bytes());
    put(&mut file, 60, &2u16.to_le_bytes());
    put_header(&mut file, 0, SEGMENT_LOAD, 5, [0x1000, base, 0x800, 0x800]);
    put_header(&mut file, 1, SEGMENT_LOAD, 4, [0x2000, base + 0x1000, 0x1000, 0x1000]);
    put_header(&mut file, 2, SEGMENT_LOAD, 6, [0x3000, base + 0x2000, 0x100, 0x2100]);
    put_header(&mut file, 3, SEGMENT_DYNAMIC, 4, [DYNAMIC_OFFSET as u64, base + 0x1800, 0x50, 0x50]);
    file[0x1000..0x1800].fill(0xcc);
    file[0x3000..0x3100].fill(0xdd);
    // One relocation: the first word of data becomes the address of the entry point.
    for (at, value) in [(0, base + 0x2000), (8, u64::from(RELOCATION_RELATIVE)), (16, base + 0x10)] {
        put_u64(&mut file, RELOCATION_OFFSET + at, value);
    }
    let dynamic = [(DYNAMIC_RELA, base + 0x1400), (DYNAMIC_RELA_SIZE, 24), (DYNAMIC_RELA_ENTRY, 24), (0, 0)];
    for (index, (tag, value)) in dynamic.into_iter().enumerate() {
        put_u64(&mut file, DYNAMIC_OFFSET + index * DYNAMIC_ENTRY_SIZE, tag);
        put_u64(&mut file, DYNAMIC_OFFSET + index * DYNAMIC_ENTRY_SIZE + 8, value);
    }
    file
}

/// What an image with `change` made to it is refused for, when it is parsed or when it is loaded.
fn refusal(change: impl Fn(&mut Vec<u8>)) -> ImageError {
    let mut file = image(IMAGE_BASE);
    change(&mut file);
    Image::parse(&file)
        .and_then(|image| image.load(&mut vec![0; image.size() as usize], IMAGE_BASE))
        .expect_err("the image is damaged")
}

fn set_u64(at: usize, value: u64) -> impl Fn(&mut Vec<u8>) {
    move |file| put_u64(file, at, value)
}

#[test]
fn a_good_image_is_laid_out_zero_filled_and_relocated() {
    for (base, place) in [(IMAGE_BASE, IMAGE_BASE), (0, IMAGE_BASE), (0x1_0000, 0x4000_0000)] {
        let file = image(base);
        let image = Image::parse(&file).unwrap();
        let layout: Vec<_> = image.segments().iter().map(|s| (s.pages().start, s.pages().end, s.access)).collect();
        assert_eq!(
            layout,
            [(0, 0x1000, Access::ReadExecute), (0x1000, 0x2000, Access::Read), (0x2000, 0x5000, Access::ReadWrite)]
        );
        let mut memory = vec![0xee; image.size() as usize];
        assert_eq!(image.load(&mut memory, place), Ok(place + 0x10));
        assert_eq!(memory[..0x800], [0xcc; 0x800]);
        assert!(memory[0x800..0x1000].iter().all(|&byte| byte == 0), "gaps are zero");
        assert_eq!(memory[0x2000..0x2008], (place + 0x10).to_le_bytes());
        assert_eq!(memory[0x2008..0x2100], [0xdd; 0xf8]);
        assert!(memory[0x2100..].iter().all(|&byte| byte == 0), "bss is zero");
    }
}

#[test]
fn foreign_files_are_told_apart() {
    assert_eq!(refusal(|file| file[0] = b'M'), ImageError::NotElf);
    assert_eq!(refusal(Vec::clear), ImageError::NotElf);
    assert_eq!(refusal(|file| file[4] = 1), ImageError::WrongClass { class: 1, order: 1 });
    assert_eq!(refusal(|file| file[5] = 2), ImageError::WrongClass { class: 2, order: 2 });
    assert_eq!(refusal(|file| file[18] = 183), ImageError::WrongMachine(183));
    assert_eq!(refusal(|file| file[16] = 1), ImageError::WrongType(1));
    assert_eq!(refusal(|file| file[field(3, 0)] = 3), ImageError::NeedsInterpreter);
    assert_eq!(refusal(|file| file[54] = 32), ImageError::DamagedHeader);
}

#[test]
fn a_fixed_image_is_taken_only_for_its_own_place() {
    let mut file = image(IMAGE_BASE);
    file[16] = TYPE_FIXED as u8;
    let image = Image::parse(&file).unwrap();
    let mut memory = vec![0; image.size() as usize];
    assert_eq!(image.load(&mut memory, IMAGE_BASE), Ok(IMAGE_BASE + 0x10));
    assert_eq!(image.load(&mut memory, IMAGE_BASE + 0x1000), Err(ImageError::FixedAddress(IMAGE_BASE)));
}

#[test]
fn a_file_cut_off_anywhere_is_truncated() {
    let file = image(IMAGE_BASE);
    for length in [4, 63, 64, 200, 0x1000, 0x2fff, 0x3080, FILE_SIZE - 1] {
        let error = Image::parse(&file[..length]).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { found, .. } if found == length as u64), "{length}: {error}");
    }
}

#[test]
fn segments_must_be_apart_in_order_and_in_reach() {
    assert_eq!(refusal(set_u64(field(1, 16), IMAGE_BASE + 0x7f0)), ImageError::Overlap(1));
    assert_eq!(refusal(set_u64(field(1, 16), IMAGE_BASE + 0x2800)), ImageError::Overlap(2));
    assert_eq!(refusal(set_u64(field(2, 40), MAX_IMAGE_SIZE - 0x1fff)), ImageError::OutOfRange(2));
    assert_eq!(refusal(set_u64(field(2, 40), u64::MAX)), ImageError::OutOfRange(2));
    assert_eq!(
        refusal(set_u64(field(2, 16), 0x1000)),
        ImageError::OutOfRange(0),
        "the first is now far above the base"
    );
    assert_eq!(refusal(set_u64(field(2, 8), u64::MAX)), ImageError::DamagedSegment(2));
    assert_eq!(refusal(set_u64(field(2, 40), 0x80)), ImageError::DamagedSegment(2));
    assert_eq!(refusal(|file| file[field(2, 4)] = 7), ImageError::WritableAndExecutable(2));
    let nothing = |file: &mut Vec<u8>| (0..3).for_each(|index| file[field(index, 0)] = 0);
    assert_eq!(refusal(nothing), ImageError::NothingToLoad);
    assert_eq!(refusal(set_u64(24, IMAGE_BASE + 0x1000)), ImageError::EntryOutside);
    assert_eq!(refusal(set_u64(24, 0)), ImageError::EntryOutside);
}

#[test]
fn more_segments_than_fit_are_refused() {
    let mut file = image(IMAGE_BASE);
    put(&mut file, 56, &(MAX_SEGMENTS as u16 + 1).to_le_bytes());
    for index in 0..=MAX_SEGMENTS {
        put_header(&mut file, index, SEGMENT_LOAD, 5, [0x1000, IMAGE_BASE + index as u64 * 0x1000, 0x100, 0x100]);
    }
    assert_eq!(Image::parse(&file).unwrap_err(), ImageError::TooManySegments);
}

#[test]
fn relocations_must_be_relative_and_inside_the_image() {
    let relocation = RELOCATION_OFFSET;
    assert_eq!(refusal(set_u64(relocation + 8, 6)), ImageError::UnknownRelocation(6));
    assert_eq!(refusal(set_u64(relocation, IMAGE_BASE - 8)), ImageError::DamagedRelocations);
    assert_eq!(refusal(set_u64(relocation, IMAGE_BASE + 0x40fc)), ImageError::DamagedRelocations);
    assert_eq!(refusal(set_u64(DYNAMIC_OFFSET + 8, 0)), ImageError::DamagedRelocations);
    assert_eq!(refusal(set_u64(DYNAMIC_OFFSET + 24, !7)), ImageError::DamagedRelocations);
    assert_eq!(refusal(set_u64(DYNAMIC_OFFSET + 24, 25)), ImageError::DamagedRelocations);
    assert_eq!(refusal(set_u64(DYNAMIC_OFFSET + 40, 16)), ImageError::DamagedRelocations);
    assert_eq!(refusal(set_u64(field(3, 16), IMAGE_BASE + 0x1fff)), ImageError::DamagedRelocations);
    for tag in [DYNAMIC_REL, DYNAMIC_RELR] {
        assert_eq!(refusal(set_u64(DYNAMIC_OFFSET + 48, tag)), ImageError::UnknownRelocationTable(tag));
    }
    let plt = |file: &mut Vec<u8>| {
        put_u64(file, DYNAMIC_OFFSET + 48, DYNAMIC_PLT_RELOCATIONS_SIZE);
        put_u64(file, DYNAMIC_OFFSET + 56, 24);
    };
    assert_eq!(refusal(plt), ImageError::UnknownRelocationTable(DYNAMIC_PLT_RELOCATIONS_SIZE));
}

#[test]
fn every_error_is_one_line_that_says_what_to_do() {
    let errors = [
        ImageError::NotElf,
        ImageError::Truncated { needed: 2, found: 1 },
        ImageError::WrongClass { class: 1, order: 1 },
        ImageError::WrongMachine(40),
        ImageError::WrongType(1),
        ImageError::FixedAddress(0x40_0000),
        ImageError::NeedsInterpreter,
        ImageError::DamagedHeader,
        ImageError::DamagedSegment(1),
        ImageError::WritableAndExecutable(1),
        ImageError::Overlap(1),
        ImageError::OutOfRange(1),
        ImageError::TooManySegments,
        ImageError::NothingToLoad,
        ImageError::EntryOutside,
        ImageError::DamagedRelocations,
        ImageError::UnknownRelocation(1),
        ImageError::UnknownRelocationTable(17),
    ];
    for text in errors.iter().map(ToString::to_string) {
        let advice: Option<String> = text.split_once([':', ';']).map(|(_, advice)| advice.into());
        assert!(advice.is_some_and(|advice| advice.len() > 10) && !text.contains('\n'), "{text}");
    }
}

proptest! {
    #[test]
    fn damage_is_refused_or_stays_within_the_image(
        changes in proptest::collection::vec((0usize..0x200, any::<u64>(), 0usize..4), 1..6),
        length in 0..=FILE_SIZE,
        cut: bool,
    ) {
        let mut file = image(IMAGE_BASE);
        for (at, value, width) in changes {
            // The headers, or the dynamic table and relocations.
            let at = if at < 0x120 { at } else { RELOCATION_OFFSET + (at - 0x120) * 5 };
            put(&mut file, at, &value.to_le_bytes()[..1 << width]);
        }
        let file = if cut { &file[..length] } else { &file[..] };
        if let Ok(image) = Image::parse(file) {
            prop_assert!(image.size() <= MAX_IMAGE_SIZE);
            let mut end = 0;
            for segment in image.segments() {
                prop_assert!(segment.pages().start >= end);
                end = segment.pages().end;
            }
            // Loading a large one would only take time.
            if image.size() < 1 << 20
                && let Ok(entry) = image.load(&mut vec![0; image.size() as usize], IMAGE_BASE)
            {
                prop_assert!(entry - IMAGE_BASE < image.size());
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut bytes = bytes;
        let start = b"\x7fELF\x02\x01";
        if bytes.len() > start.len() {
            bytes[..start.len()].copy_from_slice(start);
        }
        prop_assert!(Image::parse(&bytes).is_err());
    }
}
