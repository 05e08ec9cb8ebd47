//! Disks: sectors written and read back, by one CPU and by all, and requests that cannot be.
//!
//! `quarry test` gives the guest an empty disk; on a machine without one the tests of sectors have nothing to do, and
//! the one of the missing disk has.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use quarry_unikernel::block::{
    self, Disk, IoError, MOST_SEGMENTS, Operation, SECTOR_BYTES, Segment, SetupError, SubmitError,
};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{CpuId, Gfp, Order, Pfn};
use quarry_unikernel::thread::{self, WaitQueue};
use quarry_unikernel::{cpus, interrupts};

use crate::harness::Outcome;
use crate::team::{check_on_every_cpu, eventually};
use crate::{check, check_equal, tests};

/// Requests of a CPU at once.
const DEPTH: usize = 4;

/// Tokens there are: [`DEPTH`] for each CPU.
const TOKENS: usize = 256 * DEPTH;

/// What came of the request with each token.
static RESULTS: [AtomicU8; TOKENS] = [const { AtomicU8::new(NONE) }; TOKENS];
const NONE: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;
const UNSUPPORTED: u8 = 3;

/// Those who wait for a result.
static WAITING: WaitQueue = WaitQueue::new();

/// Calls of [`done`] in an interrupt handler.
static IN_HANDLERS: AtomicU32 = AtomicU32::new(0);

fn done(token: usize, result: Result<(), IoError>) {
    let result = match result {
        Ok(()) => DONE,
        Err(IoError::Failed) => FAILED,
        Err(IoError::Unsupported) => UNSUPPORTED,
    };
    IN_HANDLERS.fetch_add(u32::from(interrupts::in_handler()), Ordering::Relaxed);
    // Release: what the device read is seen by who has seen the result.
    RESULTS[token].store(result, Ordering::Release);
    WAITING.wake_all();
}

/// Waits for the result of the request with that token, and takes it.
fn result(token: usize) -> u8 {
    let mut result = NONE;
    WAITING.wait_until(|| {
        result = RESULTS[token].swap(NONE, Ordering::Acquire);
        result != NONE
    });
    result
}

/// The disk; `None` on a machine without one.
fn disk() -> Result<Option<&'static Disk>, String> {
    match block::disk(0) {
        Ok(disk) => Ok(Some(disk)),
        Err(SetupError::NoDisk { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Page blocks that are given back in the end.
struct Buffer {
    frames: Pfn,
    order: Order,
}

impl Buffer {
    fn new(order: u32) -> Result<Self, String> {
        let order = Order::new(order).ok_or("there is no such order")?;
        let frames = service().alloc_pages(Gfp::KERNEL, order).ok_or("there is no memory for a buffer")?;
        Ok(Self { frames, order })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the pages are this buffer's alone, and no request has them: each is waited for before it is looked
        // at.
        unsafe { core::slice::from_raw_parts_mut(service().page_address(self.frames), self.order.bytes()) }
    }

    /// Fills it so that every sector of every disk position and round looks different.
    fn fill(&mut self, sector: u64, round: u64) {
        for (index, word) in self.bytes().chunks_exact_mut(8).enumerate() {
            let value = (sector * 64 + index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round;
            word.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Whole pieces of so many bytes, the last one shorter.
    fn segments(&self, piece: usize) -> Vec<Segment> {
        let start = u64::from(self.frames.0) << 12;
        let all = self.order.bytes();
        let piece_at = |offset| Segment { physical: start + offset as u64, bytes: piece.min(all - offset) as u32 };
        (0..all).step_by(piece).map(piece_at).collect()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        service().__free_pages(self.frames, self.order);
    }
}

/// Makes a request, however long the queue is.
fn submit(disk: &Disk, operation: Operation, sector: u64, segments: &[Segment], token: usize) -> Outcome {
    loop {
        // SAFETY: the segments are a buffer's, which its owner does not touch before it has waited for the result.
        match unsafe { disk.submit(operation, sector, segments, token, done) } {
            Err(SubmitError::Busy) => disk.wait_for_room(),
            result => return result.map_err(|error| error.to_string()),
        }
    }
}

/// The same, and waits for the result.
fn perform(disk: &Disk, operation: Operation, sector: u64, segments: &[Segment]) -> Result<u8, String> {
    submit(disk, operation, sector, segments, 0)?;
    Ok(result(0))
}

fn sectors_are_read_back_as_they_were_written() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    check!(disk.sectors() > 1000, "{} sectors are too few for this test", disk.sectors());
    let (mut written, mut read) = (Buffer::new(1)?, Buffer::new(1)?);
    // One piece, pieces of pages, of sectors, and of parts of sectors, at the beginning and at the very end.
    for (round, (piece, other)) in [(8192, 8192), (4096, 512), (1536, 8192), (264, 4096)].into_iter().enumerate() {
        for sector in [0, 7, disk.sectors() - 16] {
            written.fill(sector, round as u64);
            read.bytes().fill(0);
            check_equal!(
                perform(disk, Operation::Write, sector, &written.segments(piece))?,
                DONE,
                "a write of {piece}"
            );
            check_equal!(perform(disk, Operation::Read, sector, &read.segments(other))?, DONE, "a read of {other}");
            check!(
                read.bytes() == written.bytes(),
                "sectors from {sector} on, in pieces of {piece} and {other}, differ"
            );
        }
    }
    // What is beside them is as it was.
    written.fill(20, 77);
    check_equal!(perform(disk, Operation::Write, 20, &written.segments(8192))?, DONE, "a write");
    check_equal!(perform(disk, Operation::Read, 19, &read.segments(8192)[..])?, DONE, "a read");
    check!(read.bytes()[512..] == written.bytes()[..8192 - 512], "a read one sector before is not shifted by one");
    Ok(())
}

fn every_cpu_has_requests_at_once() -> Outcome {
    const ROUNDS: u64 = 20;
    let Some(disk) = disk()? else { return Ok(()) };
    let cpu_count = cpus::online().count() as u64;
    check!(cpu_count * DEPTH as u64 * 8 <= disk.sectors(), "the disk is too small for {cpu_count} CPUs");
    ROUND_ENDS.reset();
    check_on_every_cpu(move |cpu: CpuId| {
        let place = cpus::online().position(|other| other == cpu).expect("it is online");
        let first = place * DEPTH;
        let mut buffers =
            (0..DEPTH).map(|_| Ok((Buffer::new(0)?, Buffer::new(0)?))).collect::<Result<Vec<_>, String>>()?;
        for round in 0..ROUNDS {
            // Others' sectors lie between one CPU's, and another CPU's in every round.
            let sector = |index: usize| ((place as u64 + round) % cpu_count + index as u64 * cpu_count) * 8;
            for (index, (written, _)) in buffers.iter_mut().enumerate() {
                written.fill(sector(index), round);
                submit(disk, Operation::Write, sector(index), &written.segments(1024), first + index)?;
            }
            for index in 0..DEPTH {
                check_equal!(result(first + index), DONE, "a write");
            }
            for (index, (_, read)) in buffers.iter_mut().enumerate() {
                read.bytes().fill(0);
                submit(disk, Operation::Read, sector(index), &read.segments(2048), first + index)?;
            }
            for (index, (written, read)) in buffers.iter_mut().enumerate() {
                check_equal!(result(first + index), DONE, "a read");
                check!(read.bytes() == written.bytes(), "round {round}: sectors from {} on differ", sector(index));
            }
            // The next round's sectors are another CPU's in this one.
            ROUND_ENDS.pass(round, cpu_count as u32)?;
        }
        Ok(())
    })?;
    check_equal!(IN_HANDLERS.load(Ordering::Relaxed), 0, "answers given in interrupt handlers");
    Ok(())
}

/// Has CPUs wait for each other at the end of each round.
struct RoundEnds(AtomicU32);

static ROUND_ENDS: RoundEnds = RoundEnds(AtomicU32::new(0));

impl RoundEnds {
    fn pass(&self, round: u64, cpus: u32) -> Outcome {
        self.0.fetch_add(1, Ordering::AcqRel);
        let ended = (round as u32 + 1) * cpus;
        eventually("all CPUs have ended the round", || self.0.load(Ordering::Acquire) >= ended)
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

fn requests_are_answered_whatever_the_queue_holds() -> Outcome {
    const REQUESTS: usize = 200;
    let Some(disk) = disk()? else { return Ok(()) };
    let buffer = Buffer::new(0)?;
    // More than the queue holds, of as many pieces as a request can have: the maker waits for room in between.
    let segments = &buffer.segments(128)[..MOST_SEGMENTS.min(disk.most_segments())];
    let whole = segments.len() / 4 * 4;
    for token in 0..REQUESTS {
        submit(disk, Operation::Write, token as u64, &segments[..whole], token)?;
    }
    for token in 0..REQUESTS {
        check_equal!(result(token), DONE, "write {token}");
    }
    check_equal!(perform(disk, Operation::Flush, 0, &[])?, DONE, "a flush");
    eventually("no I/O is pending", || thread::io::pending() == 0)
}

fn a_request_beyond_the_end_fails_alone() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    let buffer = Buffer::new(0)?;
    let segments = buffer.segments(512);
    for operation in [Operation::Read, Operation::Write] {
        for sector in [disk.sectors(), disk.sectors() - 1, u64::MAX / 512] {
            check_equal!(perform(disk, operation, sector, &segments)?, FAILED, "{operation:?} at {sector}");
        }
        check_equal!(perform(disk, operation, disk.sectors() - 8, &segments)?, DONE, "{operation:?} up to the end");
    }
    Ok(())
}

fn what_is_no_request_is_refused_with_a_sentence() -> Outcome {
    let Some(disk) = disk()? else { return Ok(()) };
    let refusal = |operation, segments: &[Segment]| {
        // SAFETY: no request comes of it.
        unsafe { disk.submit(operation, 0, segments, 0, done) }
    };
    let buffer = Buffer::new(0)?;
    let [one, half] = [512, 256].map(|bytes| Segment { bytes, ..buffer.segments(4096)[0] });
    for segments in [&[][..], &[half], &[one, half], &[one, Segment { bytes: 0, ..one }]] {
        check_equal!(refusal(Operation::Read, segments), Err(SubmitError::NotSectors), "a read of {segments:?}");
    }
    check_equal!(refusal(Operation::Flush, &[one]), Err(SubmitError::NotSectors), "a flush of a sector");
    let most = disk.most_segments();
    let too_many = Err(SubmitError::TooManySegments { most });
    check_equal!(refusal(Operation::Write, &[one].repeat(most + 1)), too_many, "one segment too many");
    let sentence = format!("{}", SubmitError::TooManySegments { most });
    check_equal!(
        sentence,
        format!("the disk takes {most} pieces of memory in a request: make several"),
        "the sentence"
    );
    check_equal!(SECTOR_BYTES, 512, "bytes of a sector");
    Ok(())
}

fn a_disk_there_is_not_is_told_with_what_to_do() -> Outcome {
    let count = block::disks().map_err(|error| error.to_string())?.len();
    let Err(error) = block::disk(count) else { return Err("there is one disk more than there are".into()) };
    check_equal!(error, SetupError::NoDisk { number: count, disks: count }, "the error");
    let sentence = error.to_string();
    let expected = if count == 0 { "boot with `--disk 64M`" } else { "numbered from 0 on" };
    check!(sentence.contains(expected), "the sentence is {sentence:?}");
    Ok(())
}

tests! { "disk":
    a_disk_there_is_not_is_told_with_what_to_do,
    sectors_are_read_back_as_they_were_written,
    every_cpu_has_requests_at_once,
    requests_are_answered_whatever_the_queue_holds,
    a_request_beyond_the_end_fails_alone,
    what_is_no_request_is_refused_with_a_sentence,
}
