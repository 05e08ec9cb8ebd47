//! Files that QEMU hands its guest by `-fw_cfg name=NAME,file=PATH` ([`file()`]).
//!
//! Used by images whose input is more than fits on a command line: the bench image has its traces from here. The device
//! is on the machines `pc`, `q35` and `microvm`; on others there are no files. See "QEMU Firmware Configuration (`fw_cfg`)
//! Device" in QEMU's documentation.
//!
//! Theory: items are selected by a key, and what is read then goes on where the last read ended; item [`DIRECTORY`] lists
//! the files and their keys. A signature and a word of features are read byte by byte through ports, all else by DMA: the
//! guest writes the physical address of a [`Command`] to two ports, and the device has done what it says when the second
//! write returns, or soon after; it then clears the command's control word but for the error bit. The device has one
//! selection, so a lock is held from a selection to the last read of it; nothing is allocated meanwhile, for that may sleep.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{Ordering, fence};

use quarry_memory::{Gfp, Order, Pfn};
use spin::Mutex;

use crate::arch::{read_port, write_port_u16, write_port_u32};
use crate::memory::{physical, service};

const SELECTOR_PORT: u16 = 0x510;
const DATA_PORT: u16 = 0x511;
/// Upper half of the command's address, then, four ports on, the lower, which starts the command. Both big-endian.
const DMA_PORT: u16 = 0x514;

const SIGNATURE: u16 = 0;
const FEATURES: u16 = 1;
/// A big-endian number of files, then [`ENTRY_BYTES`] for each.
const DIRECTORY: u16 = 0x19;

/// Of [`FEATURES`].
const HAS_DMA: u32 = 1 << 1;

/// Of [`Command::control`].
const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SELECT: u32 = 1 << 3;

/// Size and key (big-endian), two bytes of nothing, and a name that ends with a zero.
const ENTRY_BYTES: usize = 64;

/// Frames for a command and what it reads: 1 and 15.
const BUFFER_ORDER: u32 = 4;
const PAGE_BYTES: usize = 4096;
const BUFFER_BYTES: usize = (PAGE_BYTES << BUFFER_ORDER) - PAGE_BYTES;

/// The device's one selection.
static SELECTION: Mutex<()> = Mutex::new(());

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It has more bytes than the caller takes.
    TooLarge {
        /// How many it has.
        bytes: u64,
        /// How many the caller takes.
        most: u64,
    },
    /// The device is there, but knows no DMA.
    NoDma,
    /// The device refused to read.
    Refused,
    /// There is no memory for the buffer.
    NoMemory,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, most } => write!(f, "the file has {bytes} bytes, and {most} are the most taken"),
            Self::NoDma => f.write_str("this machine's fw_cfg device has no DMA; use a newer QEMU"),
            Self::Refused => f.write_str("the fw_cfg device refused to read the file"),
            Self::NoMemory => f.write_str("there is no memory to read a file into"),
        }
    }
}

impl core::error::Error for FileError {}

/// The contents of the file QEMU has under that name, if there are at most `most` bytes. `None` when it has none, and on
/// machines without such a device. May sleep for memory; not for handlers.
///
/// # Errors
///
/// [`FileError`] when there is such a file, but not for this caller.
pub fn file(name: &str, most: u64) -> Result<Option<Vec<u8>>, FileError> {
    let (signature, features) = {
        let _selection = SELECTION.lock();
        (read_item(SIGNATURE), read_item(FEATURES))
    };
    if signature != *b"QEMU" {
        return Ok(None);
    }
    if u32::from_le_bytes(features) & HAS_DMA == 0 {
        return Err(FileError::NoDma);
    }
    let mut device = Device::new()?;
    let found = {
        let _selection = SELECTION.lock();
        device.find(name)?
    };
    let Some((bytes, key)) = found else { return Ok(None) };
    if bytes > most {
        return Err(FileError::TooLarge { bytes, most });
    }
    let mut contents = Vec::with_capacity(bytes as usize);
    let _selection = SELECTION.lock();
    let mut select = Some(key);
    while contents.len() < bytes as usize {
        let part = BUFFER_BYTES.min(bytes as usize - contents.len());
        contents.extend_from_slice(device.read(select.take(), part)?);
    }
    Ok(Some(contents))
}

/// The first four bytes of an item, by ports.
fn read_item(key: u16) -> [u8; 4] {
    // SAFETY: selects an item of the device, or goes nowhere where there is none; reads are of the device alone.
    unsafe {
        write_port_u16(SELECTOR_PORT, key);
        core::array::from_fn(|_| read_port(DATA_PORT))
    }
}

/// What the device is to do: written by the CPU, read by the device; all big-endian.
#[repr(C)]
struct Command {
    control: u32,
    length: u32,
    address: u64,
}

/// The device, with memory for a command and for what it reads.
struct Device {
    frames: Pfn,
}

impl Device {
    fn new() -> Result<Self, FileError> {
        let order = Order::new(BUFFER_ORDER).expect("it is small");
        service().alloc_pages(Gfp::KERNEL, order).map(|frames| Self { frames }).ok_or(FileError::NoMemory)
    }

    /// Size and key of a file.
    fn find(&mut self, name: &str) -> Result<Option<(u64, u16)>, FileError> {
        let count = self.read(Some(DIRECTORY), 4)?;
        let count = u32::from_be_bytes([count[0], count[1], count[2], count[3]]);
        for _ in 0..count {
            let entry = self.read(None, ENTRY_BYTES)?;
            let (numbers, field) = entry.split_at(8);
            if field.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                let size = u32::from_be_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]);
                return Ok(Some((size.into(), u16::from_be_bytes([numbers[4], numbers[5]]))));
            }
        }
        Ok(None)
    }

    /// So many bytes of the item of that key, or of where the last read ended. At most [`BUFFER_BYTES`].
    fn read(&mut self, key: Option<u16>, bytes: usize) -> Result<&[u8], FileError> {
        assert!(bytes <= BUFFER_BYTES, "the buffer is no larger");
        let command = service().page_address(self.frames).cast::<Command>();
        let command_address = physical(self.frames);
        let control = READ | key.map_or(0, |key| u32::from(key) << 16 | SELECT);
        let value = Command {
            control: control.to_be(),
            length: (bytes as u32).to_be(),
            address: (command_address + PAGE_BYTES as u64).to_be(),
        };
        // SAFETY: the first frame is this device's own, and a page is aligned to everything.
        unsafe { command.write_volatile(value) };
        fence(Ordering::Release);
        // SAFETY: the ports are the fw_cfg device's, which is there. It reads the command, writes `bytes` bytes behind
        // the first frame, where nobody has a reference (`self` is borrowed exclusively), and the control word.
        unsafe {
            write_port_u32(DMA_PORT, ((command_address >> 32) as u32).to_be());
            write_port_u32(DMA_PORT + 4, (command_address as u32).to_be());
        }
        let control = loop {
            // SAFETY: as for the write above; the device writes the word in one piece.
            let control = u32::from_be(unsafe { (&raw const (*command).control).read_volatile() });
            if control & !ERROR == 0 {
                break control;
            }
            core::hint::spin_loop();
        };
        // What the device wrote is looked at after it said that it had.
        fence(Ordering::Acquire);
        if control & ERROR != 0 {
            return Err(FileError::Refused);
        }
        // SAFETY: the frames behind the first are this device's own, the fw_cfg device has initialised so many bytes of
        // them and is done, and they change no more while `self` is borrowed.
        Ok(unsafe { core::slice::from_raw_parts(command.cast::<u8>().add(PAGE_BYTES), bytes) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        service().__free_pages(self.frames, Order::new(BUFFER_ORDER).expect("it is small"));
    }
}
