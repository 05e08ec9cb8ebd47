//! The machine as Linux shows it: [`Facts`] for the first record, and [`Machine`], from which the suite plans.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use quarry_record::{Cpu, Node, Run, Topology};
use quarry_suite::Platform;
use quarry_topology::NodeId;
use raw_cpuid::{CpuId, Hypervisor};

use crate::firmware::Firmware;
use crate::module::Module;

/// Where Linux shows nodes.
const NODES: &str = "/sys/devices/system/node";

/// Where it shows what firmware says of them.
const TABLES: &str = "/sys/firmware/acpi/tables";

/// Distance of a node to itself.
const LOCAL_DISTANCE: u8 = 10;

/// What Linux shows of its machine.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The kernel's release, as `uname -r` says it.
    pub(crate) release: String,
    cpu: String,
    hypervisor: String,
    command_line: String,
    topology: Topology,
    warnings: u32,
    uptime_microseconds: u64,
    available_bytes: u64,
}

impl Facts {
    /// Reads all of them. `/proc` and `/sys` are mounted.
    ///
    /// # Errors
    ///
    /// When one of them is missing or of another form.
    pub(crate) fn read() -> Result<Self> {
        let uptime = read("/proc/uptime")?;
        let uptime = uptime.split_whitespace().next().and_then(|seconds| seconds.parse::<f64>().ok());
        let cpuinfo = read("/proc/cpuinfo")?;
        let mut topology = topology(&cpuinfo)?;
        let boot_apic_id = apic_ids(&cpuinfo).first().map(|cpu| cpu.apic_id);
        let firmware = Firmware::read(boot_apic_id)?;
        if let Some(firmware) = &firmware {
            firmware.place(&mut topology.nodes);
        }
        Ok(Self {
            release: read("/proc/sys/kernel/osrelease")?,
            cpu: values(&cpuinfo, "model name").next().unwrap_or("unknown").to_owned(),
            hypervisor: hypervisor(),
            command_line: read("/proc/cmdline")?,
            topology,
            warnings: firmware.map_or(0, |firmware| firmware.warnings),
            uptime_microseconds: (uptime.context("/proc/uptime has no number")? * 1e6) as u64,
            available_bytes: kilobytes(&read("/proc/meminfo")?, "MemAvailable")
                .context("/proc/meminfo has no MemAvailable")?,
        })
    }

    /// Whether TCG emulates the CPUs.
    pub(crate) fn is_emulated(&self) -> bool {
        self.hypervisor == "TCG"
    }

    /// What of the first record they tell.
    pub(crate) fn run(&self) -> Run {
        let cpus = self.topology.nodes.iter().map(|node| node.cpus.len()).sum::<usize>();
        Run {
            cpu: self.cpu.clone(),
            hypervisor: self.hypervisor.clone(),
            command_line: self.command_line.clone(),
            topology: self.topology.clone(),
            warnings: self.warnings,
            cpus_online: cpus as u32,
            boot_microseconds: self.uptime_microseconds,
            ..Run::default()
        }
    }
}

/// The name of who hosts this machine, as Quarry's images give it.
fn hypervisor() -> String {
    match CpuId::new().get_hypervisor_info().map(|info| info.identify()) {
        None => "none".to_owned(),
        Some(Hypervisor::QEMU) => "TCG".to_owned(),
        Some(other) => format!("{other:?}"),
    }
}

fn read(file: impl AsRef<Path>) -> Result<String> {
    let file = file.as_ref();
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// What stands behind a key and a colon, line by line.
fn values<'t>(text: &'t str, key: &str) -> impl Iterator<Item = &'t str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(move |(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

/// An amount that is told in kB. Nodes tell theirs behind their names: `Node 1 MemTotal`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, amount) = lines.find(|(name, _)| name.split_whitespace().next_back() == Some(key))?;
    amount.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `0-2,5` as numbers.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for range in text.split(',').filter(|word| !word.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

/// Local APICs by CPU, in the order of /proc/cpuinfo, which lists those that are online.
fn apic_ids(cpuinfo: &str) -> Vec<Cpu> {
    let of = |key| values(cpuinfo, key).filter_map(|value| value.parse::<u32>().ok());
    of("processor").zip(of("apicid")).map(|(id, apic_id)| Cpu { id, apic_id }).collect()
}

fn topology(cpuinfo: &str) -> Result<Topology> {
    let cpus = apic_ids(cpuinfo);
    let folder = Path::new(NODES);
    if !folder.is_dir() {
        let memory_bytes = kilobytes(&read("/proc/meminfo")?, "MemTotal").context("/proc/meminfo has no MemTotal")?;
        let nodes = vec![Node { memory_bytes, cpus, ..Node::default() }];
        let assumed = || "assumed".to_owned();
        let distances = vec![vec![LOCAL_DISTANCE]];
        return Ok(Topology { nodes, distances, source: assumed(), distance_source: assumed() });
    }
    let online = numbers(&read(folder.join("online"))?).context("the list of nodes is not understood")?;
    let (mut nodes, mut distances) = (Vec::new(), Vec::new());
    for id in online {
        let folder = folder.join(format!("node{id}"));
        let list = numbers(&read(folder.join("cpulist"))?).context("a node's list of CPUs is not understood")?;
        let memory_bytes = kilobytes(&read(folder.join("meminfo"))?, "MemTotal").unwrap_or(0);
        let cpus = cpus.iter().copied().filter(|cpu| list.contains(&cpu.id)).collect();
        nodes.push(Node { id, memory_bytes, cpus, ..Node::default() });
        let row = read(folder.join("distance"))?;
        distances.push(row.split_whitespace().filter_map(|distance| distance.parse().ok()).collect());
    }
    let source = |table: &str| if Path::new(TABLES).join(table).exists() { table } else { "assumed" }.to_owned();
    Ok(Topology { nodes, distances, source: source("SRAT"), distance_source: source("SLIT") })
}

/// What plans are made from. The module finds nodes by itself, by the same rules; the loops run in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    topology: &'static Topology,
    tsc_hz: u64,
    memory: u64,
}

impl Machine {
    /// With `counted` the time-stamp counter counts instructions, one a nanosecond.
    pub(crate) fn new(facts: &Facts, module: &Module, counted: bool) -> Self {
        let tsc_hz = if counted { 1_000_000_000 } else { module.tsc_hz() };
        Self::of(facts.topology.clone(), tsc_hz, facts.available_bytes)
    }

    /// There is one machine for as long as this program runs.
    pub(crate) fn of(topology: Topology, tsc_hz: u64, available_bytes: u64) -> Self {
        // A quarter, as Quarry's own: one node may have the smaller part of it.
        Self { topology: Box::leak(Box::new(topology)), tsc_hz, memory: available_bytes / 4 }
    }

    /// Rate of the time-stamp counter.
    pub(crate) fn tsc_hz(self) -> u64 {
        self.tsc_hz
    }

    /// The place of the node in the topology whose memory is nearest to a CPU.
    fn local(self, cpu: usize) -> usize {
        let nodes = &self.topology.nodes;
        let cpu_id = nodes.iter().flat_map(|node| &node.cpus).map(|cpu| cpu.id).nth(cpu);
        let own = nodes.iter().position(|node| node.cpus.iter().any(|cpu| Some(cpu.id) == cpu_id)).unwrap_or(0);
        let with_memory = (0..nodes.len()).filter(|&at| nodes[at].memory_bytes > 0);
        with_memory.min_by_key(|&at| (at != own, self.topology.distances[own][at])).unwrap_or(own)
    }

    fn id(self, place: usize) -> NodeId {
        NodeId(self.topology.nodes[place].id as u8)
    }
}

impl Platform for Machine {
    fn cpu_count(&self) -> usize {
        self.topology.nodes.iter().map(|node| node.cpus.len()).sum()
    }

    fn local_node(&self, cpu: usize) -> NodeId {
        self.id(self.local(cpu))
    }

    fn remote_node(&self, cpu: usize) -> Option<NodeId> {
        let local = self.local(cpu);
        let nodes = &self.topology.nodes;
        let others = (0..nodes.len()).filter(|&at| at != local && nodes[at].memory_bytes > 0);
        others.max_by_key(|&at| self.topology.distances[local][at]).map(|at| self.id(at))
    }

    fn ticks(&self) -> u64 {
        // Nothing is timed here: the module reads the counter.
        0
    }

    fn ticks_per_second(&self) -> u64 {
        self.tsc_hz
    }

    fn memory(&self) -> u64 {
        self.memory
    }

    fn has_interrupts(&self) -> bool {
        true
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let body = &body;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || body(cpu))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a panic ends this program")).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: A CPU\napicid\t\t: 0\ninitial apicid\t: 0\n\n\
                           processor\t: 1\nmodel name\t: A CPU\napicid\t\t: 4\ninitial apicid\t: 4\n";

    #[test]
    fn cpus_have_the_apics_of_cpuinfo() {
        assert_eq!(apic_ids(CPUINFO), [Cpu { id: 0, apic_id: 0 }, Cpu { id: 1, apic_id: 4 }]);
        assert_eq!(values(CPUINFO, "model name").next(), Some("A CPU"));
    }

    #[test]
    fn lists_of_ranges_are_read() {
        assert_eq!(numbers("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(numbers(""), Some(vec![]));
        assert_eq!(numbers("0-x"), None);
    }

    #[test]
    fn amounts_are_read_of_the_machine_and_of_a_node() {
        assert_eq!(kilobytes("MemTotal:        2048 kB\nMemFree: 1 kB", "MemTotal"), Some(2 << 20));
        assert_eq!(kilobytes("Node 1 MemTotal:        1024 kB", "MemTotal"), Some(1 << 20));
        assert_eq!(kilobytes("MemFree: 1 kB", "MemTotal"), None);
    }

    fn node(id: u32, memory_bytes: u64, cpus: &[u32]) -> Node {
        let cpus = cpus.iter().map(|&id| Cpu { id, apic_id: id }).collect();
        Node { id, memory_bytes, cpus, ..Node::default() }
    }

    #[test]
    fn local_is_the_nearest_memory_and_remote_the_farthest() {
        let nodes = vec![node(0, 1 << 30, &[0]), node(1, 0, &[1]), node(2, 1 << 30, &[])];
        let distances = vec![vec![10, 20, 40], vec![20, 10, 15], vec![40, 15, 10]];
        let machine = Machine::of(Topology { nodes, distances, ..Topology::default() }, 1, 4096);
        assert_eq!((machine.cpu_count(), machine.memory()), (2, 1024));
        assert_eq!((machine.local_node(0), machine.remote_node(0)), (NodeId(0), Some(NodeId(2))));
        assert_eq!((machine.local_node(1), machine.remote_node(1)), (NodeId(2), Some(NodeId(0))));
    }

    #[test]
    fn one_node_has_no_other() {
        let topology = Topology { nodes: vec![node(0, 4096, &[0])], distances: vec![vec![10]], ..Topology::default() };
        assert_eq!(Machine::of(topology, 1, 4096).remote_node(0), None);
    }
}
