//! [`Run`]: the first record, who runs here and on what.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// The first record of every run. Two runs can be compared when these agree in what matters to the question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`crate::SCHEMA_VERSION`] of whoever wrote this.
    pub schema: u32,
    /// Revision of the source the image was built from, as `git describe` says it.
    pub git: String,
    /// Name of the image: `bench`, `guest-tests`.
    pub image: String,
    /// Brand string of the CPU.
    pub cpu: String,
    /// Who hosts the guest, by the signature of its CPUID leaves: `TCG`, `KVM`.
    pub hypervisor: String,
    /// What the host asked QEMU for: `kvm`, `tcg`.
    pub accelerator: String,
    /// Whether virtual nanoseconds are instructions.
    pub icount: bool,
    /// Rate of the time-stamp counter.
    pub tsc_hz: u64,
    /// How that rate was found out.
    pub tsc_method: String,
    /// The command line the guest was given.
    pub command_line: String,
    /// The machine, as the guest made it out from its firmware's tables.
    pub topology: Topology,
    /// How many warnings the firmware's tables cost.
    pub warnings: u32,
    /// CPUs that work: at most those of the topology.
    pub cpus_online: u32,
    /// From the image's first instruction to its `main`.
    pub boot_microseconds: u64,
    /// Where random numbers start.
    pub seed: u64,
    /// How many result records will follow.
    pub rows: u64,
}

/// A machine: its nodes and how far they are from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Nodes by their number, from 0.
    pub nodes: Vec<Node>,
    /// `distances[from][to]`, 10 being the distance of a node to itself.
    pub distances: Vec<Vec<u8>>,
    /// Who said which node things are on: `SRAT`, or `assumed`.
    pub source: String,
    /// Who said the distances: `SLIT`, `HMAT` or `assumed`.
    pub distance_source: String,
}

/// One NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its proximity domain in the firmware's tables, where they were believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<u32>,
    /// RAM on it.
    pub memory_bytes: u64,
    /// Where that RAM is: first address and the one past the last.
    pub memory: Vec<[u64; 2]>,
    /// CPUs on it.
    pub cpus: Vec<Cpu>,
}

/// One CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number, counted from 0 over all nodes.
    pub id: u32,
    /// Number of its local APIC.
    pub apic_id: u32,
}
