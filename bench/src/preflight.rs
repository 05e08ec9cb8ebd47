//! What makes figures worse than they need be, said before a run begins: [`warnings`].
//!
//! Nothing here stops a run. What is read is Linux's; where a file is not there, nothing is said.

use std::fs;
use std::thread::available_parallelism;

use crate::accelerator::Accelerator;
use crate::words::count;

/// Share of this computer's CPUs that may be busy with other things before it is said.
const MOST_LOAD: f64 = 0.2;

/// What is known of this computer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Host {
    cpus: u64,
    /// Threads that ran or wanted to in the last minute, on the mean.
    load: Option<f64>,
    /// How the first CPU's frequency is chosen.
    governor: Option<String>,
    /// Whether it may go beyond its nominal frequency.
    boost: Option<bool>,
}

/// A sentence for each thing about this computer that disturbs a guest with so many CPUs.
pub(crate) fn warnings(accelerator: Accelerator, guest_cpus: u32) -> Vec<String> {
    say(&Host::read(), accelerator, guest_cpus.into())
}

impl Host {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let load = read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok());
        let no_turbo = read("/sys/devices/system/cpu/intel_pstate/no_turbo").map(|text| text == "0");
        Self {
            cpus: available_parallelism().map_or(1, usize::from) as u64,
            load,
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            boost: read("/sys/devices/system/cpu/cpufreq/boost").map(|text| text == "1").or(no_turbo),
        }
    }
}

fn say(host: &Host, accelerator: Accelerator, guest_cpus: u64) -> Vec<String> {
    // Counted instructions are the same whatever this computer does.
    if accelerator == (Accelerator::Tcg { icount: true }) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    if accelerator != Accelerator::Kvm {
        warnings.push(
            "there is no KVM: QEMU translates every instruction, and times compare only with each other; for figures \
             that are the same everywhere, count instructions with --icount --cpus 1"
                .to_owned(),
        );
    }
    if guest_cpus > host.cpus {
        warnings.push(format!(
            "{} of the guest share {} of this computer and take turns; figures of more than {} at once tell little of \
             contention",
            count(guest_cpus, "CPU"),
            count(host.cpus, "CPU"),
            host.cpus,
        ));
    }
    if let Some(load) = host.load.filter(|load| *load > MOST_LOAD * host.cpus as f64) {
        warnings.push(format!(
            "other programs keep this computer busy (load {load:.1} on {}); wait until they are done",
            count(host.cpus, "CPU"),
        ));
    }
    if let Some(governor) = host.governor.as_deref().filter(|governor| *governor != "performance") {
        warnings.push(format!(
            "the frequency governor is `{governor}`, so clocks vary; `cpupower frequency-set -g performance` holds them"
        ));
    }
    if host.boost == Some(true) {
        warnings.push(
            "turbo frequencies are on, so clocks depend on heat and on how many cores work; compare interleaved runs \
             (`quarry noise` tells how much it matters)"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Host {
        Host { cpus: 8, load: Some(0.3), governor: Some("performance".into()), boost: Some(false) }
    }

    #[test]
    fn nothing_is_said_of_a_quiet_computer_with_kvm() {
        assert_eq!(say(&quiet(), Accelerator::Kvm, 8), [""; 0]);
        assert_eq!(say(&Host { cpus: 8, ..Host::default() }, Accelerator::Kvm, 8), [""; 0]);
    }

    #[test]
    fn everything_that_disturbs_is_said() {
        let host = Host { load: Some(5.25), governor: Some("powersave".into()), boost: Some(true), ..quiet() };
        insta::assert_snapshot!(say(&host, Accelerator::Tcg { icount: false }, 16).join("\n"), @"
        there is no KVM: QEMU translates every instruction, and times compare only with each other; for figures that are the same everywhere, count instructions with --icount --cpus 1
        16 CPUs of the guest share 8 CPUs of this computer and take turns; figures of more than 8 at once tell little of contention
        other programs keep this computer busy (load 5.2 on 8 CPUs); wait until they are done
        the frequency governor is `powersave`, so clocks vary; `cpupower frequency-set -g performance` holds them
        turbo frequencies are on, so clocks depend on heat and on how many cores work; compare interleaved runs (`quarry noise` tells how much it matters)
        ");
    }

    #[test]
    fn counted_instructions_are_disturbed_by_nothing() {
        let host = Host { load: Some(50.0), ..quiet() };
        assert_eq!(say(&host, Accelerator::Tcg { icount: true }, 64), [""; 0]);
    }
}
