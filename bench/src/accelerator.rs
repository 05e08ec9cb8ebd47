//! [`Accelerator`]: what QEMU runs the guest with, and which of the two this computer has.

use std::fs;

/// What may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// KVM where it works, TCG elsewhere.
    #[default]
    Auto,
    /// The CPU's own virtualization.
    Kvm,
    /// QEMU's translator: slow, and everywhere.
    Tcg,
    /// The same with the guest's CPUs taking turns on one CPU of this computer: quicker where more CPUs than it has
    /// wait for each other's locks.
    TcgInTurn,
}

/// What QEMU runs the guest with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The CPU's own virtualization.
    Kvm,
    /// QEMU's translator. With `icount`, virtual time counts instructions, one a nanosecond.
    Tcg {
        /// Whether it does.
        icount: bool,
    },
    /// QEMU's translator on one thread.
    TcgInTurn,
}

/// A choice that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CannotHave {
    /// KVM does not work here.
    #[error("KVM cannot be used: {0}; use --accel tcg")]
    Kvm(&'static str),
    /// KVM counts no instructions.
    #[error("--icount counts instructions, which KVM cannot; use --accel tcg")]
    CountedKvm,
}

impl Accelerator {
    /// What a choice comes to, on a computer where KVM works or does not.
    ///
    /// # Errors
    ///
    /// [`CannotHave`].
    pub(crate) fn choose(choice: Choice, icount: bool, kvm: Result<(), &'static str>) -> Result<Self, CannotHave> {
        match (choice, icount, kvm) {
            (Choice::Kvm, true, _) => Err(CannotHave::CountedKvm),
            (Choice::Kvm, _, Err(why)) => Err(CannotHave::Kvm(why)),
            (Choice::Kvm, _, Ok(())) | (Choice::Auto, false, Ok(())) => Ok(Self::Kvm),
            // One that counts has its CPUs take turns anyhow.
            (Choice::TcgInTurn, true, _) => Ok(Self::Tcg { icount }),
            (Choice::TcgInTurn, false, _) => Ok(Self::TcgInTurn),
            (Choice::Tcg | Choice::Auto, icount, _) => Ok(Self::Tcg { icount }),
        }
    }

    /// QEMU's name of it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg { .. } | Self::TcgInTurn => "tcg",
        }
    }
}

/// Whether KVM works on this computer. `/dev/kvm` alone says too little: where the CPU has no virtualization,
/// kernels that offer it all the same interpret the guest, and not all of it.
///
/// # Errors
///
/// Why it does not.
pub(crate) fn kvm_works() -> Result<(), &'static str> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Err("/dev/kvm cannot be opened");
    }
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if has_virtualization(&cpus) { Ok(()) } else { Err("the CPU has no virtualization (vmx or svm)") }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: Result<(), &str> = Err("there is none");

    #[test]
    fn auto_takes_kvm_where_it_works() {
        assert_eq!(Accelerator::choose(Choice::Auto, false, Ok(())), Ok(Accelerator::Kvm));
        assert_eq!(Accelerator::choose(Choice::Auto, false, NO), Ok(Accelerator::Tcg { icount: false }));
    }

    #[test]
    fn counting_takes_tcg_wherever_it_may() {
        assert_eq!(Accelerator::choose(Choice::Auto, true, Ok(())), Ok(Accelerator::Tcg { icount: true }));
        assert_eq!(Accelerator::choose(Choice::Tcg, true, NO), Ok(Accelerator::Tcg { icount: true }));
        assert_eq!(Accelerator::choose(Choice::Kvm, true, Ok(())), Err(CannotHave::CountedKvm));
        assert_eq!(Accelerator::choose(Choice::TcgInTurn, true, Ok(())), Ok(Accelerator::Tcg { icount: true }));
    }

    #[test]
    fn turns_are_taken_where_they_are_asked_for() {
        assert_eq!(Accelerator::choose(Choice::TcgInTurn, false, Ok(())), Ok(Accelerator::TcgInTurn));
    }

    #[test]
    fn kvm_that_does_not_work_is_refused_with_the_reason() {
        let error = Accelerator::choose(Choice::Kvm, false, NO).expect_err("it does not work");
        assert_eq!(error.to_string(), "KVM cannot be used: there is none; use --accel tcg");
    }

    #[test]
    fn virtualization_is_a_flag_and_no_part_of_one() {
        assert!(has_virtualization("processor: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization("flags : svm"));
        assert!(!has_virtualization("flags : fpu vmx_like\nvmx flags : vnmi\nmodel name : svm\n"));
    }
}
