//! [`pin`]: gives each of the guest's CPUs one of this computer's, so that the scheduler does not move them.
//!
//! QEMU names the threads of its virtual CPUs (`CPU 0/KVM`, `CPU 0/TCG`) when it is told to (`-name debug-threads=on`);
//! they are found in `/proc` once the guest is up.

use std::fs;
use std::io;

use rustix::thread::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What QEMU has to be told for [`pin`] to find its threads.
pub(crate) const QEMU_ARGUMENTS: [&str; 2] = ["-name", "quarry,debug-threads=on"];

/// Why virtual CPUs cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotPin {
    /// There are fewer CPUs than the guest has.
    #[error("--pin wants a CPU of this computer for each of the guest's: there are {available}, not {wanted}")]
    TooFew {
        /// CPUs this program may use.
        available: usize,
        /// CPUs of the guest.
        wanted: usize,
    },
    /// QEMU has no thread for a CPU.
    #[error("--pin cannot find QEMU's thread of CPU {cpu}")]
    NoThread {
        /// Which.
        cpu: usize,
    },
    /// The host does not let us.
    #[error("--pin cannot move QEMU's threads: {0}")]
    System(#[from] io::Error),
}

/// Checks that there are CPUs enough.
///
/// # Errors
///
/// [`CannotPin::TooFew`].
pub(crate) fn check(wanted: usize) -> Result<(), CannotPin> {
    allowed(wanted).map(drop)
}

/// Binds the threads of so many virtual CPUs of a QEMU to CPUs of this computer, in their order.
///
/// # Errors
///
/// When one has no thread, or the host does not allow it.
pub(crate) fn pin(qemu: u32, cpus: usize) -> Result<(), CannotPin> {
    let places = allowed(cpus)?;
    let threads = threads(qemu)?;
    for (cpu, &place) in places.iter().enumerate() {
        let thread = threads.iter().find(|(index, _)| *index == cpu).ok_or(CannotPin::NoThread { cpu })?.1;
        let mut set = CpuSet::new();
        set.set(place);
        sched_setaffinity(Some(thread), &set).map_err(io::Error::from)?;
    }
    Ok(())
}

/// The first so many CPUs this program may use.
fn allowed(wanted: usize) -> Result<Vec<usize>, CannotPin> {
    let set = sched_getaffinity(None).map_err(io::Error::from)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    let available = cpus.len();
    if available < wanted { Err(CannotPin::TooFew { available, wanted }) } else { Ok(cpus[..wanted].to_vec()) }
}

/// QEMU's threads of virtual CPUs, with the number of each.
fn threads(qemu: u32) -> io::Result<Vec<(usize, Pid)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{qemu}/task"))? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let id = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        threads.extend(cpu_of(&name).zip(id));
    }
    Ok(threads)
}

/// The CPU a thread is of, from its name.
fn cpu_of(name: &str) -> Option<usize> {
    let (number, kind) = name.trim().strip_prefix("CPU ")?.split_once('/')?;
    if matches!(kind, "KVM" | "TCG") { number.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_known_by_their_names() {
        assert_eq!(cpu_of("CPU 12/KVM\n"), Some(12));
        assert_eq!(cpu_of("CPU 0/TCG"), Some(0));
        for other in ["qemu-system-x86", "CPU x/KVM", "CPU 1", "IO mon_iothread"] {
            assert_eq!(cpu_of(other), None, "{other}");
        }
    }

    #[test]
    fn more_cpus_than_there_are_get_one_sentence() {
        let problem = check(100_000).expect_err("no computer has so many").to_string();
        assert!(
            problem.starts_with("--pin wants a CPU of this computer for each of the guest's: there are "),
            "{problem}"
        );
    }

    #[test]
    fn a_process_without_virtual_cpus_is_told() {
        let problem = pin(std::process::id(), 1).expect_err("this is no QEMU");
        assert_eq!(problem.to_string(), "--pin cannot find QEMU's thread of CPU 0");
    }
}
