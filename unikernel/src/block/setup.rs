//! Finding disks and setting them up, once, and the thread that answers requests.

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bitflags::bitflags;
use quarry_memory::{Gfp, Order, Pfn};
use spin::Once;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, PCI_CAP_ID_VNDR};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, virtio_device_type};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal};

use super::virtio::{Device, QUEUE, Shared};
use super::{Disk, MOST_SEGMENTS};
use crate::arch::traps::TrapFrame;
use crate::layout::{PAGE_BYTES, direct};
use crate::memory::{physical, service};
use crate::pci::{self, Function, PciError, Ports};
use crate::sync::InterruptLock;
use crate::thread::{self, WaitQueue};
use crate::{cpu_local, cpus, interrupts};

/// The vector disks interrupt with.
const VECTOR: u8 = 0xf4;

/// Where the queue's number and its message's stand in a device's common configuration.
const QUEUE_SELECT: u32 = 0x16;
const QUEUE_MESSAGE: u32 = 0x1a;
const NO_MESSAGE: u16 = 0xffff;

/// Where a device's own configuration has its sectors (64 bits) and most segments (32 bits).
const CAPACITY: usize = 0;
const SEGMENTS: usize = 12;

bitflags! {
    /// What a device can do and this driver knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        /// It says how many segments a request may have.
        const SEGMENTS = 1 << 2;
        const READ_ONLY = 1 << 5;
        const FLUSH = 1 << 9;
        /// It is no legacy device.
        const VERSION_1 = 1 << 32;
    }
}

/// Why disks cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// There is none of that number.
    NoDisk {
        /// The number.
        number: usize,
        /// How many there are.
        disks: usize,
    },
    /// There is no memory for queues, page tables or the thread that answers.
    NoMemory,
    /// The addresses that devices can have are used up.
    NoAddress,
    /// A disk cannot interrupt this CPU: its APIC id is too large for a message, or the disk sends none.
    NoInterrupts,
    /// A disk does not follow the specification.
    Malformed,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Self::NoDisk { number, disks: 0 } => {
                return write!(
                    f,
                    "there is no disk {number}, for this machine has none: boot with `--disk 64M` or a file"
                );
            }
            Self::NoDisk { number, disks } => {
                return write!(f, "there is no disk {number}: the machine has {disks}, numbered from 0 on");
            }
            Self::NoMemory => "there is no memory for a disk's queue: give the machine more",
            Self::NoAddress => "there are no addresses left for a disk's registers: give the machine fewer devices",
            Self::NoInterrupts => {
                "a disk cannot interrupt this CPU: use virtio-blk-pci with MSI-X, and a CPU whose APIC id is below 255"
            }
            Self::Malformed => "a disk's registers are not as virtio 1 has them: use QEMU's virtio-blk-pci",
        };
        f.write_str(sentence)
    }
}

impl core::error::Error for SetupError {}

impl From<PciError> for SetupError {
    fn from(error: PciError) -> Self {
        match error {
            PciError::Malformed => Self::Malformed,
            PciError::NoAddress => Self::NoAddress,
            PciError::NoMemory => Self::NoMemory,
            PciError::NoInterrupts => Self::NoInterrupts,
        }
    }
}

impl From<virtio_drivers::Error> for SetupError {
    fn from(error: virtio_drivers::Error) -> Self {
        if error == virtio_drivers::Error::DmaError { Self::NoMemory } else { Self::Malformed }
    }
}

/// How far the setup is; [`READY`] is stored with Release and loaded with Acquire.
static PROGRESS: AtomicU8 = AtomicU8::new(0);
const UNTOUCHED: u8 = 0;
const AT_WORK: u8 = 1;
const READY: u8 = 2;

/// Who waits for it: it may sleep for memory, so they must not spin.
static WAITING: WaitQueue = WaitQueue::new();

static DISKS: Once<Result<Vec<Disk>, SetupError>> = Once::new();

/// Whether a disk has interrupted since the thread looked. Release in the handler, Acquire in the thread.
static HAS_RUNG: AtomicBool = AtomicBool::new(false);

static ANSWERS: WaitQueue = WaitQueue::new();

/// The disk of that number, counted from 0 in the order of their places on the bus. Threads only.
///
/// # Errors
///
/// [`SetupError`] when there is none, or disks cannot be used.
pub fn disk(number: usize) -> Result<&'static Disk, SetupError> {
    let disks = disks()?;
    disks.get(number).ok_or(SetupError::NoDisk { number, disks: disks.len() })
}

/// All disks; none is no error. Sets them up when it is first called, so that it may sleep; later calls return the
/// same. Threads only.
///
/// # Errors
///
/// [`SetupError`] when one of them cannot be used; the same in every call.
pub fn disks() -> Result<&'static [Disk], SetupError> {
    if PROGRESS.compare_exchange(UNTOUCHED, AT_WORK, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        DISKS.call_once(find);
        PROGRESS.store(READY, Ordering::Release);
        WAITING.wake_all();
    } else {
        WAITING.wait_until(|| PROGRESS.load(Ordering::Acquire) == READY);
    }
    let disks = DISKS.get().expect("whoever made it ready has filled it");
    disks.as_ref().map(Vec::as_slice).map_err(|error| *error)
}

fn find() -> Result<Vec<Disk>, SetupError> {
    let is_disk = |info: &DeviceFunctionInfo| virtio_device_type(info) == Some(DeviceType::Block);
    let places: Vec<_> = pci::functions().filter(|(_, info)| is_disk(info)).map(|(place, _)| place).collect();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    interrupts::set_handler(VECTOR, ring).expect("the vector is this module's, and this runs once");
    let disks = places.into_iter().map(set_up).collect::<Result<_, _>>()?;
    // The thread waits until the disks are where it finds them.
    thread::spawn_on(cpus::current(), "disks", answer).map_err(|_| SetupError::NoMemory)?;
    Ok(disks)
}

fn set_up(place: DeviceFunction) -> Result<Disk, SetupError> {
    let mut function = Function::open(place)?;
    let message = common_configuration(&function, QUEUE_MESSAGE, 2).ok_or(SetupError::Malformed)?;
    let select = common_configuration(&function, QUEUE_SELECT, 2).ok_or(SetupError::Malformed)?;
    let mut transport =
        PciTransport::new::<DmaMemory, _>(&mut function.root, place).map_err(|_| SetupError::Malformed)?;
    let features = transport.begin_init(Features::all());
    if !features.contains(Features::VERSION_1) {
        return Err(SetupError::Malformed);
    }
    let sectors = transport.read_consistent(|| {
        let halves: [u32; 2] = transport.read_config_space(CAPACITY)?;
        Ok(u64::from(halves[0]) | u64::from(halves[1]) << 32)
    })?;
    let most_segments = if features.contains(Features::SEGMENTS) {
        (transport.read_config_space::<u32>(SEGMENTS)? as usize).clamp(1, MOST_SEGMENTS)
    } else {
        1
    };
    let queue = VirtQueue::new(&mut transport, QUEUE, false, false)?;
    let shared = SharedPage::new().ok_or(SetupError::NoMemory)?;
    function.enable_messages(cpu_local::current().apic_id, VECTOR)?;
    // SAFETY: the registers are the device's, mapped for good; the transport uses them when it is called, and it is not
    // meanwhile.
    let answer = unsafe {
        select.cast::<u16>().write_volatile(QUEUE);
        message.cast::<u16>().write_volatile(0);
        message.cast::<u16>().read_volatile()
    };
    if answer == NO_MESSAGE {
        return Err(SetupError::NoInterrupts);
    }
    transport.finish_init();
    Ok(Disk {
        device: InterruptLock::new(Device::new(queue, transport, shared)),
        sectors,
        most_segments,
        read_only: features.contains(Features::READ_ONLY),
        waiting: WaitQueue::new(),
    })
}

/// A register of the device's common configuration. The crate keeps that of messages to itself.
fn common_configuration(function: &Function, register: u32, bytes: u64) -> Option<*mut u8> {
    let is_common = |header: u16| header >> 8 == u16::from(VIRTIO_PCI_CAP_COMMON_CFG);
    let mut capabilities = function.root.capabilities(function.place);
    let capability = capabilities.find(|it| it.id == PCI_CAP_ID_VNDR && is_common(it.private_header))?;
    let bar = Ports.read_word(function.place, capability.offset + 4) as u8;
    let offset = Ports.read_word(function.place, capability.offset + 8);
    function.registers(bar, offset.checked_add(register)?, bytes)
}

/// A disk interrupts.
fn ring(_: &mut TrapFrame) {
    HAS_RUNG.store(true, Ordering::Release);
    ANSWERS.wake_one();
}

/// The thread that answers requests.
fn answer() {
    WAITING.wait_until(|| PROGRESS.load(Ordering::Acquire) == READY);
    let Some(Ok(disks)) = DISKS.get() else { return };
    loop {
        ANSWERS.wait_until(|| HAS_RUNG.swap(false, Ordering::Acquire));
        for disk in disks {
            while disk.complete_one() {}
        }
        // So that those whose requests are done run before more is looked for.
        thread::yield_now();
    }
}

/// A page for what is shared with a device beside its queue.
pub(super) struct SharedPage(Pfn);

const _: () = assert!(size_of::<Shared>() <= PAGE_BYTES as usize, "one page is enough");

impl SharedPage {
    fn new() -> Option<Self> {
        service().alloc_pages(Gfp::KERNEL | Gfp::ZERO, Order::ZERO).map(Self)
    }

    /// What is there: zeroed when it was made, which is a valid `Shared`, and never given back.
    pub(super) fn pointer(&self) -> *mut Shared {
        service().page_address(self.0).cast()
    }
}

/// Memory that devices read and write: whole pages of the memory service. Devices see physical addresses as they are.
pub(super) struct DmaMemory;

// SAFETY: page blocks are nobody else's until they are freed, aligned, and zeroed on request; registers are mapped once
// and for good, and each is used by one driver.
unsafe impl Hal for DmaMemory {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (u64, NonNull<u8>) {
        let block = Order::for_bytes(pages * PAGE_BYTES as usize)
            .and_then(|order| service().alloc_pages(Gfp::KERNEL | Gfp::ZERO, order));
        let memory = block.and_then(|block| Some((physical(block), NonNull::new(service().page_address(block))?)));
        // Address 0 is how the crate is told that there is none.
        memory.unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(_physical: u64, address: NonNull<u8>, pages: usize) -> i32 {
        let order = Order::for_bytes(pages * PAGE_BYTES as usize).expect("such a block was allocated");
        service().free_pages(address.as_ptr(), order);
        0
    }

    unsafe fn mmio_phys_to_virt(physical: u64, bytes: usize) -> NonNull<u8> {
        let address = pci::mapped(physical, bytes as u64);
        address.and_then(NonNull::new).expect("the function's registers were mapped before its driver looks at them")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> u64 {
        (buffer.cast::<u8>().addr().get() as u64) - direct(0)
    }

    unsafe fn unshare(_physical: u64, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
