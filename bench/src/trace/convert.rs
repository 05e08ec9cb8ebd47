//! [`Converted`]: Linux's kmem events as a trace, and what could not be one.
//!
//! A recording begins and ends in the middle of things, and loses events when it is slow. So what is freed may never
//! have been seen, what is allocated may stay, and an address may come back that was never freed. Each is counted.

use std::fmt;

use clap::ValueEnum;
use quarry_trace::{Assembly, Begun, Cpu, Flags, Moment, Node, Place, Request, Trace};

use super::line::{Kind, Line, kind};
use crate::words::count;

/// What addresses up to this are not: Linux's `kmalloc` gives 16 for an object of no bytes.
const ZERO_SIZE_POINTER: u64 = 16;

/// Flags of Linux, where a tool prints them as a number. The same since 4.19.
const ZERO: u64 = 0x100;
const DIRECT_RECLAIM: u64 = 0x400;

/// Which events to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Only {
    /// Those of `kmalloc` and `kmem_cache_alloc`.
    Objects,
    /// Those of `alloc_pages`.
    Pages,
}

/// A trace, and how it came about.
pub(super) struct Converted {
    pub(super) trace: Trace,
    pub(super) counts: Counts,
}

/// How a trace came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    lines: u64,
    events: u64,
    objects: u64,
    blocks: u64,
    cpus: u64,
    /// Freed, and never seen before.
    unknown_frees: u64,
    /// Allocated where something lived.
    missed_frees: u64,
    /// Allocated, and never freed.
    left: u64,
    /// `kfree(NULL)` and the like.
    empty_frees: u64,
    /// Allocations that failed, or of no bytes.
    empty_allocations: u64,
    /// Larger than a trace can have.
    too_large: u64,
    /// Blocks of pages that went in parts.
    split: u64,
    /// Other events than of allocations and frees, and those not asked for.
    others: u64,
    /// Events the kernel lost.
    lost: u64,
    /// Lines that name an event and cannot be read.
    unreadable: u64,
}

#[derive(Default)]
struct Converter {
    assembly: Assembly,
    counts: Counts,
}

impl Converted {
    /// The trace of the lines.
    pub(super) fn of(text: &str, only: Option<Only>) -> Self {
        let mut converter = Converter::default();
        for line in text.lines() {
            converter.counts.lines += 1;
            match kind(line) {
                Kind::Event(line) => {
                    if converter.take(&line, only).is_none() {
                        converter.counts.unreadable += 1;
                    }
                }
                Kind::Lost(events) => converter.counts.lost = converter.counts.lost.saturating_add(events),
                Kind::Unreadable => converter.counts.unreadable += 1,
                Kind::Other => {}
            }
        }
        let Converter { assembly, mut counts } = converter;
        let trace = assembly.into_trace();
        counts.events = trace.events().len() as u64;
        counts.cpus = trace.cpus().len() as u64;
        counts.left = trace.live_count() as u64;
        Self { trace, counts }
    }
}

impl Converter {
    /// Takes an event; `None` when it lacks a field it has to have.
    fn take(&mut self, line: &Line<'_>, only: Option<Only>) -> Option<()> {
        let objects = only != Some(Only::Pages);
        let pages = only != Some(Only::Objects);
        match line.event {
            "kmalloc" | "kmalloc_node" | "kmem_cache_alloc" | "kmem_cache_alloc_node" if objects => {
                let size = line.number("bytes_req")?;
                let address = line.address("ptr")?;
                let request =
                    Request { size: u32::try_from(size).unwrap_or(u32::MAX), node: node(line), flags: flags(line) };
                if address <= ZERO_SIZE_POINTER || size == 0 {
                    self.counts.empty_allocations += 1;
                } else {
                    let begun = self.assembly.allocate(moment(line), address, request);
                    self.counts.objects += self.counted(begun);
                }
            }
            "kfree" | "kmem_cache_free" if objects => match line.address("ptr")? {
                0..=ZERO_SIZE_POINTER => self.counts.empty_frees += 1,
                address => self.free(line, Place::Object(address), 0),
            },
            "mm_page_alloc" if pages => {
                let (frame, order) = (line.number("pfn")?, line.number("order")?);
                // Frame 0 is nobody's, and is what is printed when there was no memory.
                if frame == 0 {
                    self.counts.empty_allocations += 1;
                } else {
                    let order = u8::try_from(order).unwrap_or(u8::MAX);
                    let begun = self.assembly.allocate_pages(moment(line), frame, order);
                    self.counts.blocks += self.counted(begun);
                }
            }
            "mm_page_free" if pages => {
                let (frame, order) = (line.number("pfn")?, line.number("order")?);
                self.free(line, Place::Pages(frame), u8::try_from(order).unwrap_or(u8::MAX));
            }
            _ => self.counts.others += 1,
        }
        Some(())
    }

    /// Counts what was remarkable about an allocation; 1 when the trace has it.
    fn counted(&mut self, begun: Begun) -> u64 {
        self.counts.missed_frees += u64::from(begun.free_was_missing);
        self.counts.too_large += u64::from(begun.too_large);
        u64::from(!begun.too_large)
    }

    fn free(&mut self, line: &Line<'_>, place: Place, order: u8) {
        match self.assembly.free(moment(line), place) {
            Some(begun_with) => self.counts.split += u64::from(begun_with != order),
            None => self.counts.unknown_frees += 1,
        }
    }
}

fn moment(line: &Line<'_>) -> Moment {
    Moment { nanoseconds: line.nanoseconds, cpu: Cpu(line.cpu) }
}

/// The node asked for; -1 is none.
fn node(line: &Line<'_>) -> Option<Node> {
    line.number("node").and_then(|node| u16::try_from(node).ok()).map(Node)
}

fn flags(line: &Line<'_>) -> Flags {
    if let Some(flags) = line.number("gfp_flags") {
        return Flags { zeroed: flags & ZERO != 0, atomic: flags & DIRECT_RECLAIM == 0 };
    }
    let text = line.field("gfp_flags").unwrap_or_default();
    let has = |names: &[&str]| text.split('|').any(|flag| names.contains(&flag.trim_start_matches('_')));
    Flags { zeroed: has(&["GFP_ZERO"]), atomic: has(&["GFP_ATOMIC", "GFP_NOWAIT"]) }
}

impl Counts {
    /// What to do when nothing came of it.
    pub(super) fn advice(&self) -> &'static str {
        if self.unreadable > 0 {
            "; its lines have to name the CPU and the time: `perf record -a`, then `perf script -F comm,tid,cpu,time,event,trace`"
        } else {
            "; print events of kmem (kmalloc, kfree, kmem_cache_alloc, kmem_cache_free, mm_page_alloc, mm_page_free) with `perf script` or `trace-cmd report`"
        }
    }
}

/// A line for everything there is to say.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {}: {}, {}, {}",
            count(self.events, "event"),
            count(self.lines, "line"),
            count(self.objects, "object"),
            count(self.blocks, "block") + " of pages",
            count(self.cpus, "CPU"),
        )?;
        let told = [
            (self.unknown_frees, "free", "of what was allocated before the recording: left out"),
            (self.missed_frees, "free", "that the recording lacks, for the address came again: put in there"),
            (self.left, "allocation", "never freed: a replay frees them when the trace is over"),
            (self.empty_frees, "free", "of nothing: left out"),
            (self.empty_allocations, "allocation", "that failed or had no bytes: left out"),
            (self.too_large, "allocation", "larger than kmalloc or the page layer gives here: left out"),
            (self.split, "block", "of pages freed in parts: taken for freed with the first part"),
            (self.others, "event", "of other kinds: left out"),
            (self.lost, "event", "lost by the kernel: record with larger buffers"),
            (self.unreadable, "line", "with an event that cannot be read: left out"),
        ];
        told.iter()
            .filter(|(number, ..)| *number > 0)
            .try_for_each(|(number, noun, what)| writeln!(f, "{} {what}", count(*number, noun)))
    }
}
