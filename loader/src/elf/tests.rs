//! Images made by hand: one that is right, and every way of being wrong.

use super::*;

#[test]
fn what_is_no_elf_file_is_refused() {
    assert_eq!(Image::parse(b"MZ").unwrap_err(), ImageError::NotElf);
    assert_eq!(Image::parse(&[]).unwrap_err(), ImageError::NotElf);
}
