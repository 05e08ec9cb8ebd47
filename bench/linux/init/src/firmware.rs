//! [`Firmware`]: what firmware says of the machine, as Linux hands it on, read by the crate that Quarry's images read it
//! with. So the records of both tell of the same VM in the same words.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use quarry_record::Node;
use quarry_topology::{NodeId, NodeSource, PhysicalRange, Tables, Topology};

/// Where Linux has the ACPI tables.
const TABLES: &str = "/sys/firmware/acpi/tables";

/// Where it has the memory map it was booted with: a folder for each range.
const MEMORY_MAP: &str = "/sys/firmware/memmap";

/// The type of a range that is RAM.
const RAM: &str = "System RAM";

/// What firmware says of nodes, CPUs and memory.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    topology: Box<Topology>,
    /// How many things had to be assumed.
    pub(crate) warnings: u32,
}

impl Firmware {
    /// Reads it. `/sys` is mounted. `None` where the kernel was built without the memory map.
    ///
    /// # Errors
    ///
    /// When something is there and cannot be read or understood.
    pub(crate) fn read(boot_apic_id: Option<u32>) -> Result<Option<Self>> {
        let Some(ram) = ram(Path::new(MEMORY_MAP))? else { return Ok(None) };
        let table = |name| table(&Path::new(TABLES).join(name));
        let (madt, srat, slit, hmat) = (table("APIC")?, table("SRAT")?, table("SLIT")?, table("HMAT")?);
        let tables =
            Tables { madt: madt.as_deref(), srat: srat.as_deref(), slit: slit.as_deref(), hmat: hmat.as_deref() };
        Ok(Some(Self::discover(&tables, &ram, boot_apic_id)))
    }

    fn discover(tables: &Tables<'_>, ram: &[PhysicalRange], boot_apic_id: Option<u32>) -> Self {
        let mut topology = Box::new(Topology::empty());
        let mut warnings = 0;
        topology.discover(tables, ram, boot_apic_id, &mut |_| warnings += 1);
        Self { topology, warnings }
    }

    /// Tells Linux's nodes where their memory is and which proximity domains they are. Linux may count nodes otherwise
    /// and may have been told to see but one: whose CPUs are in a node, its memory is there as well.
    pub(crate) fn place(&self, nodes: &mut [Node]) {
        let mut domains: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
        let mut without_cpus = (0..nodes.len()).filter(|&at| nodes[at].cpus.is_empty()).collect::<Vec<_>>().into_iter();
        for id in self.topology.nodes() {
            let of_cpus = nodes.iter().position(|node| node.cpus.iter().any(|cpu| self.is_on(cpu.apic_id, id)));
            let Some(at) = of_cpus.or_else(|| without_cpus.next()).or((!nodes.is_empty()).then_some(0)) else { return };
            let ranges = self.topology.memory_of(id).map(|memory| [memory.range.start, memory.range.end]);
            nodes[at].memory.extend(ranges);
            domains[at].push(self.topology.proximity_domain(id));
        }
        let is_told = self.topology.node_source() == NodeSource::Srat;
        for (node, domains) in nodes.iter_mut().zip(domains) {
            node.memory.sort_unstable();
            if let [domain] = domains[..] {
                node.domain = is_told.then_some(domain);
            }
            // Linux counts without what it took for itself, and leaves out nodes it was told to.
            if node.memory_bytes > 0 && !node.memory.is_empty() {
                node.memory_bytes = node.memory.iter().map(|[start, end]| end - start).sum();
            }
        }
    }

    fn is_on(&self, apic_id: u32, node: NodeId) -> bool {
        let cpu = self.topology.cpu_of_apic_id(apic_id);
        cpu.is_some_and(|cpu| self.topology.cpus()[cpu.index()].node == node)
    }
}

/// A table, where the machine has it.
fn table(file: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(problem) if problem.kind() == ErrorKind::NotFound => Ok(None),
        Err(problem) => Err(problem).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// The RAM of a memory map, in any order. `None` where there is no map.
fn ram(map: &Path) -> Result<Option<Vec<PhysicalRange>>> {
    if !map.is_dir() {
        return Ok(None);
    }
    let mut ram = Vec::new();
    for range in fs::read_dir(map).with_context(|| format!("cannot read {}", map.display()))? {
        let range = range.with_context(|| format!("cannot read {}", map.display()))?.path();
        let word = |name| {
            let file = range.join(name);
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            Ok::<_, anyhow::Error>(text.trim().to_owned())
        };
        let address = |name| {
            let text = word(name)?;
            address(&text).with_context(|| format!("{} has no address: `{text}`", range.join(name).display()))
        };
        if word("type")? == RAM {
            // The end is told by its last byte.
            ram.push(PhysicalRange::new(address("start")?, address("end")?.saturating_add(1)));
        }
    }
    Ok(Some(ram))
}

/// `0x9fbff` as a number.
fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_record::Cpu;

    const GIB: u64 = 1 << 30;

    /// A table of that signature: header, the bytes between it and the entries, the entries, a checksum that is right.
    fn table(signature: [u8; 4], more: usize, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 36 + more];
        bytes[..4].copy_from_slice(&signature);
        // Revisions since ACPI 2.0 have proximity domains of 32 bits.
        bytes[8] = 3;
        bytes.extend(entries.concat());
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[9] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
        bytes
    }

    fn local_apic(id: u8) -> Vec<u8> {
        vec![0, 8, id, id, 1, 0, 0, 0]
    }

    fn cpu_affinity(apic_id: u8, domain: u8) -> Vec<u8> {
        let mut entry = vec![0; 16];
        entry[..5].copy_from_slice(&[0, 16, domain, apic_id, 1]);
        entry
    }

    fn memory_affinity(start: u64, end: u64, domain: u32) -> Vec<u8> {
        let mut entry = vec![0; 40];
        entry[..2].copy_from_slice(&[1, 40]);
        entry[2..6].copy_from_slice(&domain.to_le_bytes());
        entry[8..16].copy_from_slice(&start.to_le_bytes());
        entry[16..24].copy_from_slice(&(end - start).to_le_bytes());
        entry[28] = 1;
        entry
    }

    /// Domain 3 with CPUs 0 and 1 and a GiB, domain 5 with CPU 2 and a GiB around a hole, domain 9 with a GiB alone.
    fn firmware() -> Firmware {
        let madt = table(*b"APIC", 8, &[local_apic(0), local_apic(1), local_apic(2)]);
        let entries = [
            cpu_affinity(0, 3),
            cpu_affinity(1, 3),
            cpu_affinity(2, 5),
            memory_affinity(0, GIB, 3),
            memory_affinity(GIB, 3 * GIB, 5),
            memory_affinity(3 * GIB, 4 * GIB, 9),
        ];
        let srat = table(*b"SRAT", 12, &entries);
        let tables = Tables { madt: Some(&madt), srat: Some(&srat), ..Tables::default() };
        let range = |start, end| PhysicalRange::new(start, end);
        let ram = [range(0, GIB), range(GIB, 3 * GIB / 2), range(5 * GIB / 2, 3 * GIB), range(3 * GIB, 4 * GIB)];
        Firmware::discover(&tables, &ram, Some(0))
    }

    fn node(id: u32, apic_ids: &[u32]) -> Node {
        let cpus = apic_ids.iter().map(|&apic_id| Cpu { id: apic_id, apic_id }).collect();
        Node { id, memory_bytes: 1000, cpus, ..Node::default() }
    }

    fn placed(mut nodes: Vec<Node>) -> Vec<Node> {
        firmware().place(&mut nodes);
        nodes
    }

    #[test]
    fn memory_is_where_the_cpus_of_its_domain_are_however_linux_counts() {
        let nodes = placed(vec![node(0, &[2]), node(1, &[0, 1]), node(2, &[])]);
        assert_eq!(nodes[0].memory, [[GIB, 3 * GIB / 2], [5 * GIB / 2, 3 * GIB]]);
        assert_eq!(nodes[1].memory, [[0, GIB]]);
        assert_eq!(nodes[2].memory, [[3 * GIB, 4 * GIB]]);
        let told: Vec<_> = nodes.iter().map(|node| (node.domain, node.memory_bytes)).collect();
        assert_eq!(told, [(Some(5), GIB), (Some(3), GIB), (Some(9), GIB)]);
    }

    #[test]
    fn a_kernel_that_sees_one_node_has_all_memory_there() {
        let nodes = placed(vec![node(0, &[0, 1, 2])]);
        assert_eq!(nodes[0].memory.iter().map(|[start, end]| end - start).sum::<u64>(), 3 * GIB);
        assert!(nodes[0].memory.is_sorted());
        assert_eq!((nodes[0].domain, nodes[0].memory_bytes), (None, 3 * GIB));
    }

    #[test]
    fn memory_that_linux_leaves_out_is_not_counted() {
        let nodes = placed(vec![node(0, &[0, 1]), Node { memory_bytes: 0, ..node(1, &[2]) }]);
        assert_eq!(nodes[1].memory_bytes, 0);
    }

    #[test]
    fn without_tables_all_ram_is_of_one_node_and_no_domain() {
        let firmware = Firmware::discover(&Tables::default(), &[PhysicalRange::new(0, GIB)], None);
        assert!(firmware.warnings > 0);
        let mut nodes = [node(0, &[0])];
        firmware.place(&mut nodes);
        assert_eq!((nodes[0].domain, nodes[0].memory.as_slice()), (None, [[0, GIB]].as_slice()));
    }

    fn write_range(map: &Path, name: &str, [start, end, kind]: [&str; 3]) {
        let folder = map.join(name);
        fs::create_dir(&folder).expect("there is room for files");
        for (file, text) in [("start", start), ("end", end), ("type", kind)] {
            fs::write(folder.join(file), format!("{text}\n")).expect("there is room for files");
        }
    }

    #[test]
    fn ram_is_what_the_memory_map_calls_so() {
        let map = tempfile::tempdir().expect("there is room for files");
        write_range(map.path(), "0", ["0x0", "0x9fbff", "System RAM"]);
        write_range(map.path(), "1", ["0x9fc00", "0x9ffff", "Reserved"]);
        let found = ram(map.path()).expect("the map is right").expect("there is one");
        assert_eq!(found, [PhysicalRange::new(0, 0x9_fc00)]);
        assert_eq!(ram(&map.path().join("none")).expect("none is no error"), None);
        write_range(map.path(), "2", ["0x100000", "soon", "System RAM"]);
        let error = ram(map.path()).expect_err("an end is no address").to_string();
        assert!(error.ends_with("2/end has no address: `soon`"), "{error}");
    }
}
