//! The first record of the run: who runs here and on what.
//!
//! Used by the harness.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_record::{Cpu, Node, Run, SCHEMA_VERSION, Topology};
use quarry_unikernel::topology_model::{NodeId, NodeSource};
use quarry_unikernel::{boot_duration, command_line, cpus, option, time, topology, topology_warnings};
use raw_cpuid::{CpuId, Hypervisor};

/// Where random numbers start unless the command line says otherwise.
const DEFAULT_SEED: u64 = 1;

/// The seed of this run's random numbers.
pub(crate) fn seed() -> u64 {
    option("seed").and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED)
}

/// The record.
pub(crate) fn run() -> Run {
    let word = |key| option(key).unwrap_or("unknown").to_string();
    Run {
        schema: SCHEMA_VERSION,
        git: word("git"),
        image: "guest-tests".to_string(),
        cpu: cpu_brand(),
        hypervisor: hypervisor(),
        accelerator: word("accel"),
        icount: option("icount") == Some("1"),
        tsc_hz: time::ticks_per_second(),
        tsc_method: time::method().to_string(),
        command_line: command_line().to_string(),
        topology: machine(),
        warnings: topology_warnings(),
        cpus_online: cpus::online().count() as u32,
        boot_microseconds: boot_duration().as_micros() as u64,
        seed: seed(),
        rows: 0,
    }
}

fn machine() -> Topology {
    let topology = topology();
    let from_firmware = topology.node_source() == NodeSource::Srat;
    let cpus_of =
        |id| topology.cpus_of(id).map(|cpu| Cpu { id: cpu.0.into(), apic_id: topology.cpus()[cpu.index()].apic_id });
    let node = |id: NodeId| Node {
        id: id.0.into(),
        domain: from_firmware.then(|| topology.proximity_domain(id)),
        memory_bytes: topology.memory_bytes(id),
        memory: topology.memory_of(id).map(|memory| [memory.range.start, memory.range.end]).collect(),
        cpus: cpus_of(id).collect(),
    };
    let distances = |from| topology.nodes().map(|to| topology.distance(from, to)).collect::<Vec<u8>>();
    Topology {
        nodes: topology.nodes().map(node).collect(),
        distances: topology.nodes().map(distances).collect(),
        source: topology.node_source().to_string(),
        distance_source: topology.distance_source().to_string(),
    }
}

fn cpu_brand() -> String {
    CpuId::new()
        .get_processor_brand_string()
        .map_or_else(|| "unknown".to_string(), |brand| brand.as_str().trim().to_string())
}

fn hypervisor() -> String {
    match CpuId::new().get_hypervisor_info().map(|info| info.identify()) {
        None => "none".to_string(),
        Some(Hypervisor::QEMU) => "TCG".to_string(),
        Some(other) => alloc::format!("{other:?}"),
    }
}
