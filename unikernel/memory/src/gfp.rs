//! [`Gfp`]: the flags of an allocation, under Linux's names, old and present-day.
//!
//! Users: every allocating call. Sources: the kmalloc manual and `linux/gfp_types.h`.
//!
//! What is honoured today: [`Gfp::ATOMIC`] and [`Gfp::NOWAIT`] (never wait; nothing in this version waits),
//! [`Gfp::THISNODE`], [`Gfp::DMA`], [`Gfp::DMA32`], [`Gfp::ZERO`], [`Gfp::NOWARN`], [`Gfp::HIGH`] (and so `ATOMIC`: may
//! use half of a zone's reserve). Every other flag is accepted and behaves as [`Gfp::KERNEL`].

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
        /// `__GFP_MOVABLE`: the owner can cope with the page being moved.
        const MOVABLE = 1 << 3;
        /// `__GFP_RECLAIMABLE`: a shrinker can give it back.
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
        /// `__GFP_COMP`: a compound page.
        const COMP = 1 << 18;
        /// `__GFP_HARDWALL`: obey the memory policy as a wall.
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

    /// Flags with which an allocation must leave the fast path: another zone, or contents.
    pub(crate) const OFF_THE_FAST_PATH: Self =
        Self::from_bits_retain(Self::DMA.bits() | Self::DMA32.bits() | Self::ZERO.bits());

    /// Whether an allocation with these flags may wait for memory.
    pub const fn may_wait(self) -> bool {
        self.contains(Self::DIRECT_RECLAIM)
    }
}

impl fmt::Display for Gfp {
    /// The names of the flags, as `GFP_KERNEL|__GFP_ZERO` would read in a report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut first = true;
        for (name, flags) in [("GFP_USER", Self::USER), ("GFP_KERNEL", Self::KERNEL), ("GFP_NOFS", Self::NOFS)]
            .into_iter()
            .chain([("GFP_NOIO", Self::NOIO), ("GFP_ATOMIC", Self::ATOMIC), ("GFP_NOWAIT", Self::NOWAIT)])
        {
            if rest.contains(flags) {
                f.write_str(name)?;
                rest = rest.difference(flags);
                first = false;
                break;
            }
        }
        for (name, flag) in rest.iter_names().filter(|(_, flag)| flag.bits().is_power_of_two()) {
            write!(f, "{}__GFP_{name}", if first { "" } else { "|" })?;
            rest = rest.difference(flag);
            first = false;
        }
        if first {
            f.write_str("0")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_report_names_the_flags_as_a_kernel_engineer_writes_them() {
        assert_eq!(Gfp::KERNEL.to_string(), "GFP_KERNEL");
        assert_eq!((Gfp::KERNEL | Gfp::ZERO | Gfp::THISNODE).to_string(), "GFP_KERNEL|__GFP_ZERO|__GFP_THISNODE");
        assert_eq!((Gfp::ATOMIC | Gfp::NOWARN).to_string(), "GFP_ATOMIC|__GFP_NOWARN");
        assert_eq!(Gfp::empty().to_string(), "0");
    }

    #[test]
    fn only_flags_that_allow_direct_reclaim_may_wait() {
        assert!(Gfp::KERNEL.may_wait() && Gfp::NOIO.may_wait() && Gfp::NOFS.may_wait() && Gfp::HIGHUSER.may_wait());
        assert!(!Gfp::ATOMIC.may_wait() && !Gfp::NOWAIT.may_wait());
    }
}
