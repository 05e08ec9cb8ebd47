//! [`Device`]: a virtio block device's queue, and the requests in it.
//!
//! Used by [`Disk`](super::Disk), which has it behind a lock. Queue and transport are those of the crate
//! `virtio-drivers`; its own block driver has one piece of memory in a request and waits for the answer, so the
//! requests are made here.
//!
//! A request is a chain of buffers: a header, the pieces of memory, and a byte for the answer. Headers and bytes of all
//! requests lie in one page that the device and the driver share.

use alloc::vec::Vec;
use core::array;
use core::iter;
use core::slice;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;

use super::setup::{DmaMemory, SharedPage};
use super::{Done, IoError, MOST_REQUESTS, MOST_SEGMENTS, Operation, Segment, SubmitError};
use crate::layout::direct;
use crate::thread::io::Pending;

/// The queue's number, and its descriptors: QEMU's devices have so many unless told otherwise.
pub(super) const QUEUE: u16 = 0;
pub(super) const QUEUE_SIZE: usize = 256;

/// Descriptors of the largest request: header, pieces, answer.
const MOST_DESCRIPTORS: usize = MOST_SEGMENTS + 2;

/// Types of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;

/// Answers. What the driver puts there first is none.
const OK: u8 = 0;
const UNSUPPORTED: u8 = 2;
const NO_ANSWER: u8 = 0xff;

/// What a request begins with; little-endian, as this CPU is.
#[repr(C)]
pub(super) struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// What is shared with the device beside the queue and the requests' own memory: a part for each request.
#[repr(C)]
pub(super) struct Shared {
    headers: [Header; MOST_REQUESTS],
    answers: [u8; MOST_REQUESTS],
}

/// A request the device has.
struct Request {
    operation: Operation,
    segments: [Segment; MOST_SEGMENTS],
    count: usize,
    token: usize,
    done: Done,
    pending: Pending,
}

/// A request that is done.
pub(super) struct Answer {
    pub(super) token: usize,
    pub(super) done: Done,
    pub(super) result: Result<(), IoError>,
    /// Held until the answer was given.
    pub(super) pending: Pending,
}

/// The device.
pub(super) struct Device {
    queue: VirtQueue<DmaMemory, QUEUE_SIZE>,
    transport: PciTransport,
    shared: SharedPage,
    /// [`MOST_REQUESTS`] places.
    requests: Vec<Option<Request>>,
    /// Which request begins with a descriptor.
    request_of: [u8; QUEUE_SIZE],
}

impl Device {
    pub(super) fn new(queue: VirtQueue<DmaMemory, QUEUE_SIZE>, transport: PciTransport, shared: SharedPage) -> Self {
        let requests = iter::repeat_with(|| None).take(MOST_REQUESTS).collect();
        Self { queue, transport, shared, requests, request_of: [0; QUEUE_SIZE] }
    }

    /// Whether a request of any size has room.
    pub(super) fn has_room(&self) -> bool {
        self.requests.iter().any(Option::is_none) && self.queue.available_desc() >= MOST_DESCRIPTORS
    }

    /// # Safety
    ///
    /// As [`Disk::submit`](super::Disk::submit), with [`MOST_SEGMENTS`] segments at most.
    pub(super) unsafe fn submit(
        &mut self,
        operation: Operation,
        sector: u64,
        segments: &[Segment],
        token: usize,
        done: Done,
    ) -> Result<(), SubmitError> {
        let place = self.requests.iter().position(Option::is_none).ok_or(SubmitError::Busy)?;
        let kind = match operation {
            Operation::Read => IN,
            Operation::Write => OUT,
            Operation::Flush => FLUSH,
        };
        let shared = self.shared.pointer();
        // SAFETY: the page is the device's and ours for good, and this part belongs to no request at present.
        unsafe {
            (&raw mut (*shared).headers[place]).write_volatile(Header { kind, reserved: 0, sector });
            (&raw mut (*shared).answers[place]).write_volatile(NO_ANSWER);
        }
        let mut kept = [Segment::default(); MOST_SEGMENTS];
        kept[..segments.len()].copy_from_slice(segments);
        let request =
            Request { operation, segments: kept, count: segments.len(), token, done, pending: Pending::new() };
        // SAFETY: the caller lends the segments to the request, the page lasts for ever, and this part of it is this
        // request's until `take_answer` has taken it out of the queue.
        let head =
            request.with_buffers(&self.shared, place, |inputs, outputs| unsafe { self.queue.add(inputs, outputs) });
        let Ok(head) = head else { return Err(SubmitError::Busy) };
        self.request_of[usize::from(head)] = place as u8;
        self.requests[place] = Some(request);
        // Between the store of the request and the load of what the device wants to be told: else each could miss the
        // other's, and the device sleep on (VIRTIO 1.2, 2.7.13.4.1). The queue does not do it.
        fence(Ordering::SeqCst);
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
        Ok(())
    }

    /// A request the device has answered, if there is one.
    pub(super) fn take_answer(&mut self) -> Option<Answer> {
        let head = self.queue.peek_used()?;
        let place = usize::from(*self.request_of.get(usize::from(head)).expect("the device answers what it was asked"));
        let request = self.requests[place].take().expect("the device answers each request once");
        let popped = request.with_buffers(&self.shared, place, |inputs, outputs| {
            // SAFETY: these are the buffers the request was added with.
            unsafe { self.queue.pop_used(head, inputs, outputs) }
        });
        popped.expect("the answer was there just now");
        // SAFETY: the device is done with the request, and wrote the answer before it said so.
        let answer = unsafe { (&raw const (*self.shared.pointer()).answers[place]).read_volatile() };
        let result = match answer {
            OK => Ok(()),
            UNSUPPORTED => Err(IoError::Unsupported),
            _ => Err(IoError::Failed),
        };
        Some(Answer { token: request.token, done: request.done, result, pending: request.pending })
    }
}

impl Request {
    /// Calls `body` with what the device reads and what it writes.
    fn with_buffers<R>(
        &self,
        shared: &SharedPage,
        place: usize,
        body: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> R {
        let shared = shared.pointer();
        let mut inputs: [&[u8]; MOST_SEGMENTS + 1] = [&[]; MOST_SEGMENTS + 1];
        let mut outputs: [&mut [u8]; MOST_SEGMENTS + 1] = array::from_fn(|_| -> &mut [u8] { &mut [] });
        let (mut input_count, mut output_count) = (1, 0);
        // SAFETY: the header of this request, which nobody writes to while it is one.
        inputs[0] = unsafe { slice::from_raw_parts((&raw const (*shared).headers[place]).cast(), size_of::<Header>()) };
        for segment in &self.segments[..self.count] {
            let start = core::ptr::with_exposed_provenance_mut::<u8>(direct(segment.physical) as usize);
            let bytes = segment.bytes as usize;
            if self.operation == Operation::Read {
                // SAFETY: whoever made the request lends this piece of RAM to it alone. Nothing here looks into it: the
                // queue takes its address.
                outputs[output_count] = unsafe { slice::from_raw_parts_mut(start, bytes) };
                output_count += 1;
            } else {
                // SAFETY: as above; nobody writes to it meanwhile.
                inputs[input_count] = unsafe { slice::from_raw_parts(start, bytes) };
                input_count += 1;
            }
        }
        // SAFETY: the answer's byte is this request's.
        outputs[output_count] = unsafe { slice::from_raw_parts_mut(&raw mut (*shared).answers[place], 1) };
        body(&inputs[..input_count], &mut outputs[..=output_count])
    }
}
