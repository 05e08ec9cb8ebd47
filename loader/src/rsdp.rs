//! ACPI's root pointer (RSDP): recognising it, and finding it where a BIOS puts it.
//!
//! Source: ACPI specification 6.5, sections 5.2.5.1 (where) and 5.2.5.3 (what). Used by the loader's binary when the
//! start info does not name the root pointer or names something else.

use crate::bytes::u32_at;

const SIGNATURE: &[u8] = b"RSD PTR ";
/// Bytes the first checksum covers; all there is in ACPI 1.0.
const SIZE_REVISION_0: usize = 20;
/// Bytes from ACPI 2.0 on.
pub const SIZE: usize = 36;
/// The root pointer starts at a multiple of this.
const ALIGNMENT: usize = 16;

/// Whether `bytes` start with a root pointer whose checksums are right.
pub fn is_valid(bytes: &[u8]) -> bool {
    let Some(first) = bytes.get(..SIZE_REVISION_0) else { return false };
    if !first.starts_with(SIGNATURE) || checksum(first) != 0 {
        return false;
    }
    let revision = first[15];
    revision < 2
        || u32_at(bytes, SIZE_REVISION_0)
            .and_then(|length| bytes.get(..length as usize))
            .is_some_and(|whole| whole.len() >= SIZE && checksum(whole) == 0)
}

/// Offset of the first valid root pointer in an area that starts at a multiple of 16.
pub fn find(area: &[u8]) -> Option<usize> {
    (0..area.len()).step_by(ALIGNMENT).find(|&offset| is_valid(&area[offset..]))
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = 0u8.wrapping_sub(checksum(bytes));
    }

    fn pointer(revision: u8) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(SIGNATURE);
        bytes[15] = revision;
        bytes[16] = 0x40;
        bytes[20] = SIZE as u8;
        seal(&mut bytes[..SIZE_REVISION_0], 8);
        seal(&mut bytes, 32);
        bytes
    }

    #[test]
    fn both_revisions_are_recognised() {
        assert!(is_valid(&pointer(2)));
        assert!(is_valid(&pointer(0)[..SIZE_REVISION_0]));
        assert!(!is_valid(&pointer(2)[..SIZE_REVISION_0]), "revision 2 has a second part");
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut first = pointer(2);
        first[16] ^= 1;
        assert!(!is_valid(&first));
        let mut second = pointer(2);
        second[30] ^= 1;
        assert!(!is_valid(&second));
    }

    #[test]
    fn the_search_skips_what_only_looks_like_one() {
        let mut area = [0u8; 0x200];
        area[0x40..0x48].copy_from_slice(SIGNATURE);
        area[0x1e0 - 8..0x1e0 - 8 + SIZE].copy_from_slice(&pointer(2));
        assert_eq!(find(&area), None, "not at a multiple of 16");
        area[0x150..0x150 + SIZE].copy_from_slice(&pointer(2));
        assert_eq!(find(&area), Some(0x150));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256), length: u32) {
            find(&bytes);
            let mut odd = pointer(2);
            odd[20..24].copy_from_slice(&length.to_le_bytes());
            prop_assert!(!is_valid(&odd) || length as usize == SIZE);
        }
    }
}
