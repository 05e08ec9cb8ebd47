//! [`Slab`]: one cache in numbers; and [`Slabinfo`]: all of them, as `/proc/slabinfo`, version 2.1.

use core::fmt::{self, Write};

use super::Report;
use crate::machine::Machine;
use crate::registry::{CacheName, CacheShape, CacheView, Registration};
use crate::service::Service;
use crate::set::SLOTS;

/// One cache, over all nodes and CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slab {
    name: CacheName,
    /// Bytes of an object.
    pub object_size: u64,
    /// Objects of a slab.
    pub objects_per_slab: u64,
    /// Pages of a slab.
    pub pages_per_slab: u64,
    /// Objects a CPU may cache.
    pub limit: u64,
    /// Objects that move between a CPU and its depot at once.
    pub batch: u64,
    /// Objects a depot may keep ready, in batches.
    pub shared_factor: u64,
    /// Slabs there are.
    pub slabs: u64,
    /// Of them, those of which no object is in use or cached.
    pub empty_slabs: u64,
    /// Free objects in slabs.
    pub free_in_slabs: u64,
    /// Free objects depots keep ready.
    pub in_depots: u64,
    /// Free objects CPUs cache.
    pub in_magazines: u64,
    /// Handles to it beside the first: of caches that merged with it.
    pub aliases: u64,
}

/// `/proc/slabinfo`, version 2.1: a line for each cache. Its columns are those of Linux's SLAB, whose arrays of
/// objects on each CPU and each node are much like magazines and depots.
pub struct Slabinfo<'s, M: Machine>(pub &'s Service<M>);

impl Slab {
    /// `kmalloc-64`.
    pub fn name(&self) -> impl fmt::Display {
        self.name
    }

    /// Objects there are, whoever has them.
    pub const fn objects(&self) -> u64 {
        self.slabs * self.objects_per_slab
    }

    /// Objects in use. Approximate while CPUs work.
    pub const fn active_objects(&self) -> u64 {
        self.objects().saturating_sub(self.free_in_slabs + self.in_depots + self.in_magazines)
    }

    fn rows(&self) -> [(&'static str, u64); 11] {
        [
            ("active_objs", self.active_objects()),
            ("num_objs", self.objects()),
            ("objsize", self.object_size),
            ("objperslab", self.objects_per_slab),
            ("pagesperslab", self.pages_per_slab),
            ("limit", self.limit),
            ("batchcount", self.batch),
            ("sharedfactor", self.shared_factor),
            ("active_slabs", self.slabs.saturating_sub(self.empty_slabs)),
            ("num_slabs", self.slabs),
            ("sharedavail", self.in_depots),
        ]
    }
}

impl<M: Machine> Service<M> {
    /// Every cache there is: those of the kmalloc family, then those made while the service runs.
    pub fn slabs(&self) -> impl Iterator<Item = Slab> {
        self.cache_ids().filter_map(|id| self.with_cache(id, |cache, entry| self.slab(cache, entry)))
    }

    fn slab(&self, cache: &CacheShape, entry: Option<Registration>) -> Slab {
        let name = entry.map_or_else(|| CacheView::kmalloc(cache.id).name, |entry| CacheName::Given(entry.name));
        let limit = if cache.has_magazines() { self.capacities().magazine(&cache.geometry, SLOTS) } else { 0 };
        let mut slab = Slab::new(name, cache, limit, self.depot_stack_capacity(&cache.geometry));
        slab.aliases = entry.map_or(0, |entry| entry.references.saturating_sub(1).into());
        for (_, counts) in self.depot_counts(cache) {
            slab.slabs += u64::from(counts.slabs);
            slab.empty_slabs += u64::from(counts.empty_slabs);
            slab.free_in_slabs += u64::from(counts.free_in_slabs);
            slab.in_depots += u64::from(counts.stacked);
        }
        slab.in_magazines = self.sets().map(|set| u64::from(set.cached(cache))).sum();
        slab
    }
}

impl Slab {
    fn new(name: CacheName, cache: &CacheShape, limit: u32, stack: u32) -> Self {
        let geometry = &cache.geometry;
        let batch = limit / 2;
        Self {
            name,
            object_size: geometry.size.into(),
            objects_per_slab: geometry.objects.into(),
            pages_per_slab: geometry.order.frames().into(),
            limit: limit.into(),
            batch: batch.into(),
            shared_factor: stack.checked_div(batch).unwrap_or(0).into(),
            slabs: 0,
            empty_slabs: 0,
            free_in_slabs: 0,
            in_depots: 0,
            in_magazines: 0,
            aliases: 0,
        }
    }
}

impl<M: Machine> Report for Slabinfo<'_, M> {
    fn name(&self) -> &'static str {
        "slabinfo"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        for slab in self.0.slabs() {
            for (name, value) in slab.rows() {
                each(&slab.name(), &name, value);
            }
        }
    }
}

impl<M: Machine> fmt::Display for Slabinfo<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(f)?;
        self.0.slabs().try_for_each(|slab| line(f, &slab))
    }
}

fn head(f: &mut impl Write) -> fmt::Result {
    f.write_str(concat!(
        "slabinfo - version: 2.1\n",
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>",
        " : tunables <limit> <batchcount> <sharedfactor>",
        " : slabdata <active_slabs> <num_slabs> <sharedavail>\n",
    ))
}

fn line(f: &mut impl Write, slab: &Slab) -> fmt::Result {
    let mut name = Column { inner: f, missing: 17 };
    write!(name, "{}", slab.name)?;
    name.fill_up()?;
    let [active, objects, size, per_slab, pages, limit, batch, factor, active_slabs, slabs, shared] =
        slab.rows().map(|(_, value)| value);
    write!(f, " {active:>6} {objects:>6} {size:>6} {per_slab:>4} {pages:>4}")?;
    write!(f, " : tunables {limit:>4} {batch:>4} {factor:>4}")?;
    writeln!(f, " : slabdata {active_slabs:>6} {slabs:>6} {shared:>6}")
}

/// Counts what is written, so that a column can be filled up with blanks.
struct Column<'w, W> {
    inner: &'w mut W,
    missing: usize,
}

impl<W: Write> Column<'_, W> {
    fn fill_up(self) -> fmt::Result {
        write!(self.inner, "{:1$}", "", self.missing)
    }
}

impl<W: Write> Write for Column<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.missing = self.missing.saturating_sub(text.len());
        self.inner.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;
    use crate::class::{DMA32_BASE, class_of};

    #[test]
    fn a_line_is_linuxs_to_the_byte() {
        let new = |cache: CacheView, limit| Slab::new(cache.name, &cache, limit, 2730);
        let slab = new(CacheView::kmalloc(class_of(96)), 60);
        let slab = Slab { slabs: 12, empty_slabs: 2, free_in_slabs: 100, in_depots: 61, in_magazines: 30, ..slab };
        let dma = new(CacheView::kmalloc(DMA32_BASE + 7), 0);
        let mut text = String::new();
        head(&mut text).expect("a string takes all");
        line(&mut text, &slab).expect("a string takes all");
        line(&mut text, &dma).expect("a string takes all");
        insta::assert_snapshot!(text, @"
        slabinfo - version: 2.1
        # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
        kmalloc-96           313    504     96   42    1 : tunables   60   30   91 : slabdata     10     12     61
        dma32-kmalloc-1k       0      0   1024    8    2 : tunables    0    0    0 : slabdata      0      0      0
        ");
    }
}
