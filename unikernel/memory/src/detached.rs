//! [`Set::make_detached`]: the set of CPUs that have none, made where the host wants it.
//!
//! Used by hosts whose file should not hold it: a set is 39 KiB, nearly all of it zeroes, and the addresses in it are
//! relocations of the file besides.

use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

use crate::set::{EMPTY, Set};

impl Set {
    /// Makes what [`Set::detached`] is in place, without a copy of it anywhere.
    pub fn make_detached(place: &mut MaybeUninit<Self>) -> &mut Self {
        *place = MaybeUninit::zeroed();
        // SAFETY: all-zero bytes are a valid `Set`: its fields are integers, null pointers in atomics, and `false`.
        let set = unsafe { place.assume_init_mut() };
        for list in &set.pages {
            list.handed_out.set(u32::MAX);
        }
        for magazine in &set.dynamic {
            magazine.store((&raw const EMPTY).cast_mut(), Relaxed);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    static DETACHED: Set = Set::detached();

    /// Everything in a set, so that a field that is added has to be added here.
    fn contents(set: &Set) -> Vec<u64> {
        let Set {
            magazines,
            dynamic,
            spare_magazines,
            spare_count,
            used_slots,
            node_tag,
            zone,
            attached,
            cpu,
            node,
            mark,
            net_bytes,
            net_frames,
            stacks,
            held_chunks,
            next,
            #[cfg(feature = "hosted")]
            pooled,
            counters,
            pages,
            remote,
        } = set;
        let mut all = Vec::new();
        for magazine in magazines {
            all.extend(magazine.grid.contents().map(u64::from));
            all.push(magazine.generation.get().into());
            all.extend(
                [magazine.link.get(), magazine.capacity.get().into(), magazine.filled.get().into()].map(u64::from),
            );
            all.extend([&magazine.count, &magazine.limit].map(|word| u64::from(word.load(Relaxed))));
            all.extend(magazine.slots.iter().map(|slot| slot.load(Relaxed).addr() as u64));
            // SAFETY: nobody else has the set.
            all.extend(unsafe { &*magazine.stack.get() }.contents());
        }
        for list in pages {
            all.extend([&list.count, &list.limit].map(|word| u64::from(word.load(Relaxed))));
            all.extend([list.handed_out.get(), list.spare].map(u64::from));
            all.extend(list.blocks.iter().map(|block| u64::from(block.get())));
        }
        for stack in remote {
            all.extend([&stack.tag, &stack.count].map(|word| u64::from(word.load(Relaxed))));
            all.extend(stack.grid.contents().map(u64::from));
            all.push(stack.capacity.get().into());
            all.extend(stack.slots.iter().map(|slot| slot.load(Relaxed).addr() as u64));
        }
        all.extend(dynamic.iter().map(|magazine| magazine.load(Relaxed).addr() as u64));
        all.extend([spare_magazines.load(Relaxed).addr() as u64, next.load(Relaxed).addr() as u64]);
        #[cfg(feature = "hosted")]
        all.push(pooled.load(Relaxed).addr() as u64);
        let counters = [
            &counters.refills,
            &counters.drains,
            &counters.remote_refills,
            &counters.remote_drains,
            &counters.page_refills,
            &counters.page_drains,
        ];
        all.extend(counters.into_iter().chain([net_bytes, net_frames]).map(|word| word.load(Relaxed) as u64));
        all.extend(
            [spare_count.load(Relaxed), stacks.raw().times_taken(), held_chunks.load(Relaxed), *node_tag, *mark]
                .map(u64::from),
        );
        all.extend([*used_slots as u64, zone.0.into(), (*attached).into(), cpu.0.into(), node.0.into()]);
        all
    }

    #[test]
    fn a_set_made_in_place_is_the_one_made_at_compile_time() {
        let mut place = Box::<Set>::new_uninit();
        // What was there before must not show.
        // SAFETY: any bytes may be written where nothing is initialised.
        unsafe { place.as_mut_ptr().write_bytes(0xa5, 1) };
        assert_eq!(contents(Set::make_detached(&mut place)), contents(&DETACHED));
    }
}
