//! [`Gfp`]: the flags of an allocation, under Linux's names, old and present-day.
//!
//! Users: every allocating call. Sources: the kmalloc manual and `linux/gfp_types.h`.
//!
//! What each does is told here in a line; docs/kmalloc.md has it in full, with the test that shows it.

use core::fmt;

bitflags::bitflags! {
    /// How and where to allocate: a set of `GFP_*` and `__GFP_*` flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Gfp: u32 {
        /// `__GFP_DMA`, `GFP_DMA`: from memory below 16 MiB.
        const DMA = 1 << 0;
        /// `__GFP_HIGHMEM`: high memory is welcome; x86_64 has none, so it asks for the highest zone.
        const HIGHMEM = 1 << 1;
        /// `__GFP_DMA32`, `GFP_DMA32`: from memory below 4 GiB.
        const DMA32 = 1 << 2;
        /// `__GFP_MOVABLE`: the owner can cope with the page being moved. It is put among others of the kind; to be
        /// moved it must come from [`alloc_movable_page`](crate::Service::alloc_movable_page).
        const MOVABLE = 1 << 3;
        /// `__GFP_RECLAIMABLE`: a shrinker can give it back. It is put among others of the kind.
        const RECLAIMABLE = 1 << 4;
        /// `__GFP_HIGH`: high priority; may use the emergency reserve.
        const HIGH = 1 << 5;
        /// `__GFP_IO`: reclaim may start I/O.
        const IO = 1 << 6;
        /// `__GFP_FS`: reclaim may call a file system.
        const FS = 1 << 7;
        /// `__GFP_ZERO`: zeroed memory.
        const ZERO = 1 << 8;
        /// `__GFP_DIRECT_RECLAIM`: the caller may wait and reclaim.
        const DIRECT_RECLAIM = 1 << 10;
        /// `__GFP_KSWAPD_RECLAIM`: wake the balancing thread when memory runs low.
        const KSWAPD_RECLAIM = 1 << 11;
        /// `__GFP_NOWARN`: no report when it fails.
        const NOWARN = 1 << 13;
        /// `__GFP_REPEAT`, today `__GFP_RETRY_MAYFAIL`: try harder before failing.
        const RETRY_MAYFAIL = 1 << 14;
        /// `__GFP_NOFAIL`: must not fail.
        const NOFAIL = 1 << 15;
        /// `__GFP_NORETRY`: give up at once.
        const NORETRY = 1 << 16;
        /// `__GFP_COMP`: a compound page. Every block is one; see [`page`](crate::page).
        const COMP = 1 << 18;
        /// `__GFP_HARDWALL`: obey the thread's memory policy as a wall.
        const HARDWALL = 1 << 20;
        /// `__GFP_THISNODE`: this node or none. Where no node is named: the caller's local one, the nearest with
        /// memory.
        const THISNODE = 1 << 21;
        /// `__GFP_COLD`: a cache-cold page.
        const COLD = 1 << 22;

        /// `__GFP_WAIT`, today `__GFP_RECLAIM`: may wait.
        const WAIT = Self::DIRECT_RECLAIM.bits() | Self::KSWAPD_RECLAIM.bits();
        /// `GFP_KERNEL`: the normal kernel allocation. May sleep.
        const KERNEL = Self::WAIT.bits() | Self::IO.bits() | Self::FS.bits();
        /// `GFP_USER`: on behalf of a user. May sleep.
        const USER = Self::KERNEL.bits() | Self::HARDWALL.bits();
        /// `GFP_HIGHUSER`: on behalf of a user, from the highest zone.
        const HIGHUSER = Self::USER.bits() | Self::HIGHMEM.bits();
        /// `GFP_HIGHUSER_MOVABLE`: and movable.
        const HIGHUSER_MOVABLE = Self::HIGHUSER.bits() | Self::MOVABLE.bits();
        /// `GFP_ATOMIC`: does not sleep; may use part of the reserve. For interrupt handlers.
        const ATOMIC = Self::HIGH.bits() | Self::KSWAPD_RECLAIM.bits();
        /// `GFP_NOWAIT`: does not sleep.
        const NOWAIT = Self::KSWAPD_RECLAIM.bits();
        /// `GFP_NOIO`: no I/O to get it.
        const NOIO = Self::WAIT.bits();
        /// `GFP_NOFS`: no file system call to get it.
        const NOFS = Self::WAIT.bits() | Self::IO.bits();
    }
}

impl Gfp {
    /// `__GFP_REPEAT`, the old name of [`Gfp::RETRY_MAYFAIL`].
    pub const REPEAT: Self = Self::RETRY_MAYFAIL;

    /// `__GFP_RECLAIM`, today's name of [`Gfp::WAIT`].
    pub const RECLAIM: Self = Self::WAIT;

    /// The old `GFP_THISNODE`, which is more than [`__GFP_THISNODE`](Gfp::THISNODE): from this node at once, or not at
    /// all. It neither waits nor reclaims, and a failure is not reported.
    pub const GFP_THISNODE: Self =
        Self::from_bits_retain(Self::THISNODE.bits() | Self::NORETRY.bits() | Self::NOWARN.bits());

    /// The old `GFP_TEMPORARY`: for something short-lived that a shrinker can give back.
    pub const TEMPORARY: Self = Self::from_bits_retain(Self::KERNEL.bits() | Self::RECLAIMABLE.bits());

    /// Flags with which an allocation must leave the fast path: another zone, or contents.
    pub(crate) const OFF_THE_FAST_PATH: Self =
        Self::from_bits_retain(Self::DMA.bits() | Self::DMA32.bits() | Self::ZERO.bits());

    /// Flags with which a request for pages must not be served from a CPU's list: those, another mobility, a policy, and
    /// the list's cold end.
    pub(crate) const OFF_THE_PAGE_LISTS: Self = Self::from_bits_retain(
        Self::OFF_THE_FAST_PATH.bits() | Self::MOBILITY.bits() | Self::HARDWALL.bits() | Self::COLD.bits(),
    );

    /// Flags that declare a mobility; memory that the service itself holds objects in has none.
    pub(crate) const MOBILITY: Self = Self::from_bits_retain(Self::MOVABLE.bits() | Self::RECLAIMABLE.bits());

    /// Whether an allocation with these flags may wait for memory.
    pub const fn may_wait(self) -> bool {
        self.contains(Self::DIRECT_RECLAIM)
    }
}

/// The compound flags that reports name, in Linux's order: of two that fit, the one with more flags comes first.
const COMPOUND: [(&str, Gfp); 10] = [
    ("GFP_HIGHUSER_MOVABLE", Gfp::HIGHUSER_MOVABLE),
    ("GFP_HIGHUSER", Gfp::HIGHUSER),
    ("GFP_USER", Gfp::USER),
    ("GFP_KERNEL", Gfp::KERNEL),
    ("GFP_NOFS", Gfp::NOFS),
    ("GFP_ATOMIC", Gfp::ATOMIC),
    ("GFP_NOIO", Gfp::NOIO),
    ("GFP_NOWAIT", Gfp::NOWAIT),
    ("GFP_DMA", Gfp::DMA),
    ("GFP_DMA32", Gfp::DMA32),
];

/// What about a combination of flags cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Impossible {
    /// More than one of `DMA`, `DMA32`, `HIGHMEM`.
    TwoZones,
    /// `NOFAIL` without `DIRECT_RECLAIM`, or where nothing waits.
    NofailThatMayNotWait,
    /// `NOFAIL` with `NORETRY`.
    NofailThatGivesUp,
}

impl Impossible {
    /// A bit of its own.
    pub(crate) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoZones => "an allocation comes from one zone: name one of them; the lowest of these is used",
            Self::NofailThatMayNotWait => {
                "what may not wait can fail: leave __GFP_NOFAIL out, or ask in a thread and allow \
                 __GFP_DIRECT_RECLAIM; it may fail now"
            }
            Self::NofailThatGivesUp => {
                "__GFP_NORETRY gives up and __GFP_NOFAIL never does: choose one; it never fails now"
            }
        })
    }
}

impl Gfp {
    const ZONES: Self = Self::from_bits_retain(Self::DMA.bits() | Self::DMA32.bits() | Self::HIGHMEM.bits());

    /// What about these flags cannot be.
    pub(crate) const fn impossible(self) -> Option<Impossible> {
        if self.intersection(Self::ZONES).bits().count_ones() > 1 {
            Some(Impossible::TwoZones)
        } else if self.contains(Self::NOFAIL) && !self.may_wait() {
            Some(Impossible::NofailThatMayNotWait)
        } else if self.contains(Self::NOFAIL) && self.contains(Self::NORETRY) {
            Some(Impossible::NofailThatGivesUp)
        } else {
            None
        }
    }

    /// These flags without what cannot be, as [`Impossible`] says.
    pub(crate) const fn possible(self) -> Self {
        let mut flags = self;
        if flags.contains(Self::DMA) {
            flags = flags.difference(Self::DMA32).difference(Self::HIGHMEM);
        }
        if flags.contains(Self::DMA32) {
            flags = flags.difference(Self::HIGHMEM);
        }
        if flags.contains(Self::NOFAIL) {
            flags = flags.difference(if flags.may_wait() { Self::NORETRY } else { Self::NOFAIL });
        }
        flags
    }
}

impl fmt::Display for Gfp {
    /// As Linux prints flags (`%pGg`): `GFP_KERNEL|__GFP_ZERO`; `none` when there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut separator = "";
        for (name, flags) in COMPOUND {
            if rest.contains(flags) {
                write!(f, "{separator}{name}")?;
                rest = rest.difference(flags);
                separator = "|";
            }
        }
        for (name, flag) in Self::all().iter_names().filter(|(_, flag)| flag.bits().is_power_of_two()) {
            if rest.contains(flag) {
                write!(f, "{separator}__GFP_{name}")?;
                rest = rest.difference(flag);
                separator = "|";
            }
        }
        if !rest.is_empty() {
            write!(f, "{separator}{:#x}", rest.bits())?;
        } else if self.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// A name that no flag has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFlag;

impl fmt::Display for UnknownFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not a flag of an allocation: write them as GFP_ATOMIC|__GFP_ZERO")
    }
}

impl core::error::Error for UnknownFlag {}

impl core::str::FromStr for Gfp {
    type Err = UnknownFlag;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, UnknownFlag> {
        let named = |name: &str| {
            let compound = COMPOUND.iter().find(|(compound, _)| *compound == name).map(|(_, flags)| *flags);
            let bits = || u32::from_str_radix(name.strip_prefix("0x")?, 16).ok().map(Self::from_bits_retain);
            let single = || Self::from_name(name.strip_prefix("__GFP_")?);
            compound.or_else(single).or_else(bits).ok_or(UnknownFlag)
        };
        if text == "none" {
            return Ok(Self::empty());
        }
        text.split('|').try_fold(Self::empty(), |flags, name| Ok(flags | named(name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn a_report_names_the_flags_as_a_kernel_engineer_writes_them() {
        assert_eq!(Gfp::KERNEL.to_string(), "GFP_KERNEL");
        assert_eq!((Gfp::KERNEL | Gfp::ZERO | Gfp::THISNODE).to_string(), "GFP_KERNEL|__GFP_ZERO|__GFP_THISNODE");
        assert_eq!((Gfp::ATOMIC | Gfp::NOWARN).to_string(), "GFP_ATOMIC|__GFP_NOWARN");
        assert_eq!(Gfp::HIGHUSER_MOVABLE.to_string(), "GFP_HIGHUSER_MOVABLE");
        assert_eq!((Gfp::NOWAIT | Gfp::DMA32).to_string(), "GFP_NOWAIT|GFP_DMA32");
        assert_eq!((Gfp::NOIO | Gfp::FS).to_string(), "GFP_NOIO|__GFP_FS");
        assert_eq!(Gfp::DIRECT_RECLAIM.to_string(), "__GFP_DIRECT_RECLAIM");
        assert_eq!(Gfp::empty().to_string(), "none");
    }

    #[test]
    fn flags_have_the_values_they_have_in_linux() {
        assert_eq!((Gfp::KERNEL.bits(), Gfp::ATOMIC.bits(), Gfp::HIGHUSER_MOVABLE.bits()), (0xcc0, 0x820, 0x10_0cca));
    }

    #[test]
    fn a_name_no_flag_has_is_refused() {
        for text in ["", "GFP_", "__GFP_WHATEVER", "GFP_KERNEL|", "0xzz"] {
            assert_eq!(text.parse::<Gfp>(), Err(UnknownFlag), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_printed_names_are_the_flags_and_none_is_said_twice(bits: u32) {
            let gfp = Gfp::from_bits_retain(bits);
            let mut named = Gfp::empty();
            for name in gfp.to_string().split('|') {
                let flag: Gfp = name.parse().unwrap_or_else(|_| panic!("{name}"));
                prop_assert!(!named.intersects(flag), "{gfp}");
                named |= flag;
            }
            prop_assert_eq!(named, gfp);
            prop_assert_eq!(gfp.to_string().parse(), Ok(gfp));
        }
    }

    #[test]
    fn impossible_combinations_are_told_and_followed_as_far_as_they_can_be() {
        let cases = [
            (Gfp::KERNEL | Gfp::DMA | Gfp::DMA32, Impossible::TwoZones, Gfp::KERNEL | Gfp::DMA),
            (Gfp::HIGHUSER | Gfp::DMA32, Impossible::TwoZones, Gfp::USER | Gfp::DMA32),
            (Gfp::ATOMIC | Gfp::NOFAIL, Impossible::NofailThatMayNotWait, Gfp::ATOMIC),
            (Gfp::KERNEL | Gfp::NOFAIL | Gfp::NORETRY, Impossible::NofailThatGivesUp, Gfp::KERNEL | Gfp::NOFAIL),
        ];
        for (flags, impossible, possible) in cases {
            assert_eq!((flags.impossible(), flags.possible()), (Some(impossible), possible), "{flags}");
            assert_eq!(possible.impossible(), None, "{possible}");
        }
        assert_eq!((Gfp::KERNEL | Gfp::NOFAIL | Gfp::DMA).impossible(), None);
    }

    #[test]
    fn only_flags_that_allow_direct_reclaim_may_wait() {
        assert!(Gfp::KERNEL.may_wait() && Gfp::NOIO.may_wait() && Gfp::NOFS.may_wait() && Gfp::HIGHUSER.may_wait());
        assert!(!Gfp::ATOMIC.may_wait() && !Gfp::NOWAIT.may_wait());
    }
}
