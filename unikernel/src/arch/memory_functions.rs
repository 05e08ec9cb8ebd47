//! `memcpy` and its family: the compiler calls them, and this target has none.
//!
//! Used by all compiled code; called before anything is set up, so there is no state but [`FAST_STRINGS`].
//!
//! The body of a long copy or fill is `rep movsb`/`rep stosb` on CPUs that say these are fast (ERMS), and a loop of
//! 16-byte SSE accesses or `rep stosq` elsewhere: QEMU's TCG counts `rep movsb` byte by byte and is slow at it, however
//! loudly its `max` CPU says ERMS, so the boot leaves [`FAST_STRINGS`] off under TCG.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether `rep movsb` and `rep stosb` are fast here. Set once at boot.
static FAST_STRINGS: AtomicBool = AtomicBool::new(false);

/// Below this many bytes starting a string instruction costs more than it gains.
const STRING_THRESHOLD: usize = 512;

/// Chooses the implementation for this CPU; `under_tcg`: the CPU is QEMU's interpreter.
pub(crate) fn choose(under_tcg: bool) {
    let erms =
        raw_cpuid::CpuId::new().get_extended_feature_info().is_some_and(|features| features.has_rep_movsb_stosb());
    FAST_STRINGS.store(erms && !under_tcg, Relaxed);
}

/// # Safety
///
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if bytes >= STRING_THRESHOLD && FAST_STRINGS.load(Relaxed) {
        // SAFETY: the caller's promise; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") bytes => _, options(nostack, preserves_flags));
        }
        return to;
    }
    // SAFETY: the caller's promise.
    unsafe { copy_forward(to, from, bytes) };
    to
}

/// # Safety
///
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= bytes {
        // SAFETY: the caller's promise; the destination does not start inside the source, so forward is right.
        unsafe { copy_forward(to, from, bytes) };
    } else {
        // SAFETY: the caller's promise; the destination starts inside the source, so backward is right.
        unsafe { copy_backward(to, from, bytes) };
    }
    to
}

/// # Safety
///
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    let byte = value as u8;
    if bytes >= STRING_THRESHOLD && FAST_STRINGS.load(Relaxed) {
        // SAFETY: the caller's promise; the direction flag is clear by the ABI.
        unsafe {
            asm!("rep stosb", inout("rdi") to => _, inout("rcx") bytes => _, in("al") byte, options(nostack, preserves_flags));
        };
        return to;
    }
    let words = bytes / 8;
    let pattern = u64::from(byte) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's promise; the words cover `words * 8 <= bytes` bytes.
    unsafe {
        asm!("rep stosq", inout("rdi") to => _, inout("rcx") words => _, in("rax") pattern, options(nostack, preserves_flags));
    }
    for index in words * 8..bytes {
        // SAFETY: the caller's promise. Volatile, or the compiler would see a memset here.
        unsafe { to.add(index).write_volatile(byte) };
    }
    to
}

/// # Safety
///
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    let mut index = 0;
    while index + 8 <= bytes {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe {
            (left.add(index).cast::<u64>().read_unaligned(), right.add(index).cast::<u64>().read_unaligned())
        };
        if a != b {
            break;
        }
        index += 8;
    }
    while index < bytes {
        // SAFETY: the caller's promise. Volatile, or the compiler would see a memcmp here.
        let (a, b) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        index += 1;
    }
    0
}

/// # Safety
///
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, bytes) }
}

/// Blocks that are copied at a time where there are so many: all are read before one is written.
const BLOCKS: usize = 4;

/// Bytes of a block.
const BLOCK: usize = size_of::<__m128i>();

/// # Safety
///
/// Both ranges are valid, and `to` does not start inside `from..from + bytes` unless it is `from`.
#[inline(always)]
unsafe fn copy_forward(to: *mut u8, from: *const u8, bytes: usize) {
    let mut index = 0;
    while index + BLOCKS * BLOCK <= bytes {
        // SAFETY: the caller's promise.
        unsafe { copy_blocks::<BLOCKS>(to.add(index), from.add(index)) };
        index += BLOCKS * BLOCK;
    }
    while index + BLOCK <= bytes {
        // SAFETY: the caller's promise.
        unsafe { copy_blocks::<1>(to.add(index), from.add(index)) };
        index += BLOCK;
    }
    while index < bytes {
        // SAFETY: the caller's promise. Volatile, or the compiler would see a memcpy here.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        index += 1;
    }
}

/// # Safety
///
/// Both ranges are valid, and `from` does not start inside `to..to + bytes` unless it is `to`.
unsafe fn copy_backward(to: *mut u8, from: *const u8, bytes: usize) {
    let mut left = bytes;
    while left >= BLOCKS * BLOCK {
        left -= BLOCKS * BLOCK;
        // SAFETY: the caller's promise.
        unsafe { copy_blocks::<BLOCKS>(to.add(left), from.add(left)) };
    }
    while left >= BLOCK {
        left -= BLOCK;
        // SAFETY: the caller's promise.
        unsafe { copy_blocks::<1>(to.add(left), from.add(left)) };
    }
    while left > 0 {
        left -= 1;
        // SAFETY: the caller's promise. Volatile, or the compiler would see a memmove here.
        unsafe { to.add(left).write_volatile(from.add(left).read_volatile()) };
    }
}

/// Copies so many blocks, which may overlap in any way.
///
/// # Safety
///
/// Both ranges are valid.
#[inline(always)]
unsafe fn copy_blocks<const COUNT: usize>(to: *mut u8, from: *const u8) {
    let (to, from) = (to.cast::<__m128i>(), from.cast::<__m128i>());
    // SAFETY: the caller's promise; unaligned accesses are allowed.
    let blocks: [__m128i; COUNT] = core::array::from_fn(|block| unsafe { _mm_loadu_si128(from.add(block)) });
    for (block, value) in blocks.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(to.add(block), value) };
    }
}
