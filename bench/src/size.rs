//! [`Size`]: an amount of memory as people write it.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// An amount of memory in bytes. Written as a number with an optional `K`, `M`, `G` or `T` (powers of 1024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Suffixes with their powers of two, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl Size {
    /// So many MiB.
    pub(crate) const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// For people: `64 B`, `4 KiB`, `1.5 GiB`.
    pub(crate) fn for_people(self) -> String {
        match UNITS.into_iter().find(|(_, shift)| self.0 >= 1 << shift) {
            None => format!("{} B", self.0),
            Some((unit, shift)) => {
                let amount = format!("{:.2}", self.0 as f64 / (1_u64 << shift) as f64);
                format!("{} {unit}iB", amount.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

/// In the largest unit that loses nothing, as QEMU takes it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.into_iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift)) {
            None => write!(f, "{}", self.0),
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
        }
    }
}

/// A text is no [`Size`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no amount of memory; write a whole number with K, M, G or T behind it, as in 512M")]
pub(crate) struct NoSize(String);

impl FromStr for Size {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let unit = UNITS.into_iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_lowercase()]));
        let (digits, shift) = unit.map_or((text, 0), |(_, shift)| (&text[..text.len() - 1], shift));
        let number = digits.parse::<u64>().ok().filter(|_| digits.starts_with(|first: char| first.is_ascii_digit()));
        number.and_then(|number| number.checked_mul(1 << shift)).map(Self).ok_or_else(|| NoSize(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amount)
    }
}

/// A text as [`FromStr`] has it, or a bare number of bytes.
struct Amount;

impl Visitor<'_> for Amount {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount of memory: bytes, or a text such as \"512M\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| E::custom("an amount of memory is not negative"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read() {
        let read = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
        assert_eq!(read("64"), Some(64));
        assert_eq!(read("4K"), Some(4096));
        assert_eq!(read("512m"), Some(512 << 20));
        assert_eq!(read("2G"), Some(2 << 30));
        assert_eq!(read("1T"), Some(1 << 40));
    }

    #[test]
    fn what_is_no_amount_is_told() {
        for text in ["", "G", "-1", "+1", "1.5G", "2GB", "99999999999T", "twelve"] {
            let error = text.parse::<Size>().expect_err("it is none").to_string();
            assert!(error.starts_with(&format!("`{text}` is no amount of memory")), "{error}");
        }
    }

    #[test]
    fn people_read_round_amounts() {
        let read = [64, 4096, 1536 << 20, 2 << 30, (2 << 30) - (5 << 20)].map(|bytes| Size(bytes).for_people());
        assert_eq!(read, ["64 B", "4 KiB", "1.5 GiB", "2 GiB", "2 GiB"]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in any::<u64>(), shift in 0..64_u32) {
            let size = Size(bytes >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
