//! The system locality information table: distances between proximity domains (ACPI specification 6.5, section 5.2.17).

use crate::bytes::u64_at;
use crate::report::Reporter;
use crate::table::{HEADER, Table, clamped};
use crate::{Position, Problem, Source};

/// Header and number of localities.
const FIXED_PART: usize = HEADER + 8;

/// Where the number of localities stands, for warnings about it.
pub(crate) const LOCALITIES_POSITION: Position = Position { index: 0, offset: HEADER as u32 };

/// A matrix that fits in its table.
#[derive(Clone, Copy)]
pub(crate) struct Slit<'t> {
    matrix: &'t [u8],
    localities: usize,
}

impl<'t> Slit<'t> {
    pub(crate) fn open(bytes: &'t [u8], reporter: &mut Reporter) -> Option<Self> {
        let table = Table::open(Source::Slit, bytes, FIXED_PART, reporter)?;
        let stated = u64_at(table.bytes, HEADER)?;
        let space = &table.bytes[FIXED_PART..];
        let size = usize::try_from(stated).ok().and_then(|localities| localities.checked_mul(localities));
        let Some(matrix) = size.filter(|size| *size > 0).and_then(|size| space.get(..size)) else {
            let problem = Problem::MatrixTooLarge { localities: stated, bytes: clamped(space.len()) };
            reporter.at(Source::Slit, LOCALITIES_POSITION, problem);
            return None;
        };
        if matrix.len() < space.len() {
            let problem = Problem::MatrixTooSmall { localities: stated, extra: clamped(space.len() - matrix.len()) };
            reporter.at(Source::Slit, LOCALITIES_POSITION, problem);
        }
        Some(Self { matrix, localities: stated as usize })
    }

    /// How many rows and columns the matrix has.
    pub(crate) fn localities(&self) -> usize {
        self.localities
    }

    /// The distance between two localities, as told; `None` beyond the matrix.
    pub(crate) fn distance(&self, from: usize, to: usize) -> Option<u8> {
        if from >= self.localities || to >= self.localities {
            return None;
        }
        self.matrix.get(from * self.localities + to).copied()
    }

    /// Where that distance stands.
    pub(crate) fn position(&self, from: usize, to: usize) -> Position {
        let index = from * self.localities + to;
        Position { index: clamped(index), offset: clamped(FIXED_PART + index) }
    }
}
