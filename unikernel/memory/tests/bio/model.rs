//! Memory added, cloned, split, chained and given back in any order, against a list of bytes for each bio.

use std::ops::Range;

use proptest::prelude::*;
use quarry_memory::Gfp;
use quarry_memory::bio::BiosetFlags;

use crate::cases::cases;
use crate::support::{Buffer, Ends, SECTOR, TestBio, assert_nothing_in_use, exit, set, shared_service};

/// Bytes of the buffer that memory is added from.
const BYTES: usize = 8 * 4096;

#[derive(Clone, Debug)]
enum Step {
    /// Adds a part of the buffer, or what follows the last piece.
    Add {
        which: prop::sample::Index,
        offset: usize,
        length: usize,
        behind: bool,
    },
    Clone(prop::sample::Index),
    Split {
        which: prop::sample::Index,
        at: prop::sample::Index,
        chained: bool,
    },
    Complete(prop::sample::Index),
    Drop(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (index(), 0..BYTES, prop_oneof![Just(0), 1usize..3000, Just(SECTOR)], any::<bool>())
            .prop_map(|(which, offset, length, behind)| Step::Add { which, offset, length, behind }),
        2 => index().prop_map(Step::Clone),
        4 => (index(), index(), any::<bool>()).prop_map(|(which, at, chained)| Step::Split { which, at, chained }),
        1 => index().prop_map(Step::Complete),
        1 => index().prop_map(Step::Drop),
    ]
}

/// What a bio must be.
struct Model {
    bio: TestBio,
    /// The bytes that take part, as parts of the buffer.
    pieces: Vec<Range<usize>>,
    sector: u64,
    /// Whether the vectors are its own.
    is_first: bool,
}

fn bytes(pieces: &[Range<usize>]) -> impl Iterator<Item = usize> {
    pieces.iter().cloned().flatten()
}

/// Parts the first bytes from the rest.
fn parted(pieces: &[Range<usize>], at: usize) -> [Vec<Range<usize>>; 2] {
    let mut parts = [vec![], vec![]];
    let mut left = at;
    for piece in pieces {
        let first = left.min(piece.len());
        let [head, tail] = [piece.start..piece.start + first, piece.start + first..piece.end];
        parts[0].extend((!head.is_empty()).then_some(head));
        parts[1].extend((!tail.is_empty()).then_some(tail));
        left -= first;
    }
    parts
}

impl Model {
    fn check(&self, start: u64) {
        let bio = &self.bio;
        let pieces = bio.segments().map(|piece| {
            let first = (piece.address - start) as usize;
            first..first + piece.length as usize
        });
        let found: Vec<_> = pieces.collect();
        assert!(bytes(&found).eq(bytes(&self.pieces)), "{found:?} instead of {:?}", self.pieces);
        assert_eq!(found.len(), self.pieces.len(), "{found:?} instead of {:?}", self.pieces);
        assert_eq!(bio.bytes() as usize, bytes(&self.pieces).count());
        assert_eq!(bio.sector(), self.sector);
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn bios_are_lists_of_bytes_whatever_is_done_to_them(
        capacity in 0usize..12, steps in prop::collection::vec(step(), 1..60),
    ) {
        let service = shared_service();
        let clones = set(service, 4, BiosetFlags::empty());
        let buffer = Buffer::new(service, 3);
        let start = u64::from(buffer.block.0) * 4096;
        let ends = Ends::default();
        let mut bio = service.bio_kmalloc(capacity, Gfp::KERNEL).expect("memory is free");
        ends.note(&mut bio);
        bio.set_sector(100);
        let first = Model { bio, pieces: vec![], sector: 100, is_first: true };
        let capacity = first.bio.capacity();
        // Vectors of the first, which stay where a split took what was in them.
        let mut vectors: Vec<Range<usize>> = vec![];
        let mut bios = vec![first];
        for step in steps {
            if bios.is_empty() {
                break;
            }
            match step {
                Step::Add { which, offset, length, behind } => {
                    let which = which.index(bios.len());
                    let offset = if behind { vectors.last().map_or(offset, |last| last.end) } else { offset };
                    let length = length.min(BYTES.saturating_sub(offset));
                    let is_alone = bios.len() == 1 && bios[which].is_first;
                    let model = &mut bios[which];
                    // SAFETY: the buffer lives until all bios are gone, and nobody uses its bytes.
                    let added = unsafe { model.bio.add_page(buffer.block, length as u32, offset as u32) } as usize;
                    let fits = vectors.last().is_some_and(|last| last.end == offset) || vectors.len() < capacity;
                    prop_assert_eq!(added, if is_alone && fits { length } else { 0 });
                    if added > 0 {
                        match vectors.last_mut().filter(|last| last.end == offset) {
                            Some(last) => last.end += added,
                            None => vectors.push(offset..offset + added),
                        }
                        match model.pieces.last_mut().filter(|last| last.end == offset) {
                            Some(last) => last.end += added,
                            None => model.pieces.push(offset..offset + added),
                        }
                    }
                }
                Step::Clone(which) => {
                    let from = &bios[which.index(bios.len())];
                    let bio = from.bio.fast_clone(Gfp::NOWAIT, &clones).expect("memory is free");
                    let (pieces, sector) = (from.pieces.clone(), from.sector);
                    bios.push(Model { bio, pieces, sector, is_first: false });
                }
                Step::Split { which, at, chained } => {
                    let which = which.index(bios.len());
                    let rest = &mut bios[which];
                    let sectors = rest.bio.sectors();
                    if sectors < 2 {
                        continue;
                    }
                    let at = 1 + at.index(sectors as usize - 1);
                    let mut bio = rest.bio.split(at as u32, Gfp::NOWAIT, &clones).expect("memory is free");
                    let [head, tail] = parted(&rest.pieces, at * SECTOR);
                    let sector = rest.sector;
                    rest.pieces = tail;
                    rest.sector += at as u64;
                    if chained {
                        bio.chain_to(&mut rest.bio);
                    }
                    bios.push(Model { bio, pieces: head, sector, is_first: false });
                }
                Step::Complete(which) | Step::Drop(which) => {
                    let gone = bios.swap_remove(which.index(bios.len()));
                    match step {
                        // (Dropped before it is submitted, the first would not complete.)
                        Step::Drop(_) if !gone.is_first => service.bio_put(gone.bio),
                        _ => gone.bio.endio(Ok(())),
                    }
                }
            }
            for model in &bios {
                model.check(start);
            }
        }
        for model in bios {
            model.check(start);
            model.bio.endio(Ok(()));
        }
        prop_assert_eq!(ends.count(), 1, "the first completes once, after all that were chained to it");
        drop(buffer);
        exit(service, clones);
        assert_nothing_in_use(service);
    }
}
