//! What an interrupt must leave alone: floating-point and general registers, and the red zone below the stack pointer.

use core::arch::asm;
use core::hint::black_box;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_unikernel::topology_model::MAX_CPUS;
use quarry_unikernel::{TrapFrame, cpus, interrupts, thread};

use crate::harness::Outcome;
use crate::interrupts::register;
use crate::team::{check_on_every_cpu, spawn};
use crate::{check, check_equal, tests};

/// Vectors of the two tests.
const SPOILING: u8 = 0x60;
const DISTURBING: u8 = 0x61;

/// MXCSR with all exceptions masked, rounding toward zero; and toward minus infinity.
const TOWARD_ZERO: u32 = 0x7f80;
const DOWNWARD: u32 = 0x3f80;

/// How often each CPU's handler has run.
static SPOILT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// A handler that overwrites every register a handler may overwrite, and much of its stack.
fn spoil(_: &mut TrapFrame) {
    let mut stack = [0_u64; 512];
    black_box(&mut stack).fill(u64::MAX);
    // SAFETY: all registers that change are named; MXCSR is put back by the interrupt's return, and nothing here
    // computes with it meanwhile.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4", "pcmpeqd xmm5, xmm5", "pcmpeqd xmm6, xmm6", "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm8, xmm8", "pcmpeqd xmm9, xmm9", "pcmpeqd xmm10, xmm10", "pcmpeqd xmm11, xmm11",
            "pcmpeqd xmm12, xmm12", "pcmpeqd xmm13, xmm13", "pcmpeqd xmm14, xmm14", "pcmpeqd xmm15, xmm15",
            "mov r8, -1", "mov r9, -1", "mov r10, -1", "mov r11, -1", "mov rsi, -1", "mov rdi, -1",
            "ldmxcsr [{mxcsr}]",
            mxcsr = in(reg) &raw const DOWNWARD_WORD,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("rsi") _, out("rdi") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    SPOILT[cpus::current().index()].fetch_add(1, Ordering::Relaxed);
}

static DOWNWARD_WORD: u32 = DOWNWARD;

/// What a stretch of code finds of what it had before an interrupt.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Image {
    xmm: [u128; 16],
    general: [u64; 6],
    red_zone: [u64; 16],
    mxcsr: u32,
}

// The offsets the assembly below uses.
const _: () = assert!(offset_of!(Image, general) == 256 && offset_of!(Image, red_zone) == 304);
const _: () = assert!(offset_of!(Image, mxcsr) == 432);

impl Image {
    fn of(seed: u64) -> Self {
        let word = |index: u64| (seed + index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            xmm: core::array::from_fn(|index| {
                u128::from(word(index as u64)) << 64 | u128::from(word(99 + index as u64))
            }),
            general: core::array::from_fn(|index| word(200 + index as u64)),
            red_zone: core::array::from_fn(|index| word(300 + index as u64)),
            mxcsr: TOWARD_ZERO,
        }
    }
}

/// Puts `image` into the registers and below the stack pointer, lets a pending interrupt come, and puts what is then
/// there into `image`. Called with interrupts off; they are on afterwards.
///
/// # Safety
///
/// An interrupt of this CPU is pending whose handler changes `count`.
unsafe fn through_an_interrupt(image: &mut Image, count: &AtomicU64) {
    // SAFETY: the asm pushes nothing, so what it writes below the stack pointer is nobody's; it puts MXCSR back;
    // everything else that changes is named. It turns interrupts on as the caller was promised, and ends because one is
    // pending.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "sub rsp, 16",
            "stmxcsr [rsp]",
            "mov rbx, rdi",
            "xor ecx, ecx",
            "2:",
            "mov rdx, [rbx + rcx * 8 + 304]",
            "mov rbp, rcx",
            "neg rbp",
            "mov [rsp + rbp * 8 - 8], rdx",
            "inc ecx",
            "cmp ecx, 16",
            "jne 2b",
            "movdqa xmm0, [rbx]", "movdqa xmm1, [rbx + 16]", "movdqa xmm2, [rbx + 32]", "movdqa xmm3, [rbx + 48]",
            "movdqa xmm4, [rbx + 64]", "movdqa xmm5, [rbx + 80]", "movdqa xmm6, [rbx + 96]", "movdqa xmm7, [rbx + 112]",
            "movdqa xmm8, [rbx + 128]", "movdqa xmm9, [rbx + 144]", "movdqa xmm10, [rbx + 160]", "movdqa xmm11, [rbx + 176]",
            "movdqa xmm12, [rbx + 192]", "movdqa xmm13, [rbx + 208]", "movdqa xmm14, [rbx + 224]", "movdqa xmm15, [rbx + 240]",
            "mov r8, [rbx + 256]", "mov r9, [rbx + 264]", "mov r10, [rbx + 272]",
            "mov r11, [rbx + 280]", "mov rdi, [rbx + 288]", "mov rbp, [rbx + 296]",
            "ldmxcsr [rbx + 432]",
            "mov rax, [rsi]",
            "sti",
            "3:",
            "cmp rax, [rsi]",
            "je 3b",
            "movdqa [rbx], xmm0", "movdqa [rbx + 16], xmm1", "movdqa [rbx + 32], xmm2", "movdqa [rbx + 48], xmm3",
            "movdqa [rbx + 64], xmm4", "movdqa [rbx + 80], xmm5", "movdqa [rbx + 96], xmm6", "movdqa [rbx + 112], xmm7",
            "movdqa [rbx + 128], xmm8", "movdqa [rbx + 144], xmm9", "movdqa [rbx + 160], xmm10", "movdqa [rbx + 176], xmm11",
            "movdqa [rbx + 192], xmm12", "movdqa [rbx + 208], xmm13", "movdqa [rbx + 224], xmm14", "movdqa [rbx + 240], xmm15",
            "mov [rbx + 256], r8", "mov [rbx + 264], r9", "mov [rbx + 272], r10",
            "mov [rbx + 280], r11", "mov [rbx + 288], rdi", "mov [rbx + 296], rbp",
            "stmxcsr [rbx + 432]",
            "xor ecx, ecx",
            "4:",
            "mov rbp, rcx",
            "neg rbp",
            "mov rdx, [rsp + rbp * 8 - 8]",
            "mov [rbx + rcx * 8 + 304], rdx",
            "inc ecx",
            "cmp ecx, 16",
            "jne 4b",
            "ldmxcsr [rsp]",
            "add rsp, 16",
            "pop rbp",
            "pop rbx",
            inout("rdi") &raw mut *image => _,
            in("rsi") count.as_ptr(),
            out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}

fn registers_and_the_red_zone_survive_interrupts() -> Outcome {
    register(SPOILING, spoil)?;
    check_on_every_cpu(|cpu| {
        let count = &SPOILT[cpu.index()];
        for round in 0..1000 {
            let before = Image::of(round);
            let mut after = before;
            interrupts::without_interrupts(|| {
                interrupts::raise(SPOILING);
                // SAFETY: raised above, and its handler counts there.
                unsafe { through_an_interrupt(&mut after, count) };
            });
            check!(before == after, "an interrupt changed {before:x?} to {after:x?}");
        }
        Ok(())
    })
}

/// Something with many roundings: a different order or precision would show.
fn sum_of_reciprocals(terms: u32, mut between: impl FnMut(u32)) -> f64 {
    (1..=terms).fold(0.0, |sum, term| {
        between(term);
        sum + 1.0 / f64::from(term)
    })
}

fn floating_point_survives_interrupts_and_other_threads() -> Outcome {
    const TERMS: u32 = 5000;
    register(DISTURBING, spoil)?;
    let expected = sum_of_reciprocals(TERMS, |_| {}).to_bits();
    check_on_every_cpu(move |cpu| {
        let compute = move || {
            sum_of_reciprocals(TERMS, |term| match term % 4 {
                0 => interrupts::raise(DISTURBING),
                1 => thread::yield_now(),
                _ => {}
            })
        };
        let threads = [(); 3].map(|()| spawn(cpu, compute));
        for thread in threads {
            check_equal!(thread.join().to_bits(), expected, "bits of a sum");
        }
        Ok(())
    })
}

tests! { "registers":
    registers_and_the_red_zone_survive_interrupts,
    floating_point_survives_interrupts_and_other_threads,
}
