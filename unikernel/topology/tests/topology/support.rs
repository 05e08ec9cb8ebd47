//! Running discovery in tests: every run also checks that the result is valid and covers all RAM.

use quarry_topology::{NodeId, PhysicalRange, Tables, Topology, Warning};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// What came of a discovery.
pub(crate) struct Found {
    pub(crate) topology: Box<Topology>,
    pub(crate) warnings: Vec<Warning>,
}

impl Found {
    /// The sentences of all warnings, in the order told.
    pub(crate) fn sentences(&self) -> Vec<String> {
        self.warnings.iter().map(ToString::to_string).collect()
    }

    /// The one sentence told; fails if there are more or none.
    #[track_caller]
    pub(crate) fn only_sentence(&self) -> String {
        let sentences = self.sentences();
        assert_eq!(sentences.len(), 1, "{sentences:#?}");
        sentences.into_iter().next().expect("counted above")
    }

    /// Node of each CPU, in the order of CPU ids.
    pub(crate) fn cpu_nodes(&self) -> Vec<u8> {
        self.topology.cpus().iter().map(|cpu| cpu.node.0).collect()
    }

    /// APIC id of each CPU, in the order of CPU ids.
    pub(crate) fn apic_ids(&self) -> Vec<u32> {
        self.topology.cpus().iter().map(|cpu| cpu.apic_id).collect()
    }

    /// Start, end and node of all memory.
    pub(crate) fn memory(&self) -> Vec<(u64, u64, u8)> {
        self.topology.memory().iter().map(|memory| (memory.range.start, memory.range.end, memory.node.0)).collect()
    }

    pub(crate) fn domains(&self) -> Vec<u32> {
        self.topology.nodes().map(|node| self.topology.proximity_domain(node)).collect()
    }

    pub(crate) fn distances(&self) -> Vec<Vec<u8>> {
        let row = |from: NodeId| self.topology.nodes().map(|to| self.topology.distance(from, to)).collect();
        self.topology.nodes().map(row).collect()
    }
}

/// Runs discovery with the boot CPU unknown.
#[track_caller]
pub(crate) fn discover(tables: &Tables<'_>, ram: &[(u64, u64)]) -> Found {
    discover_from(tables, ram, None)
}

#[track_caller]
pub(crate) fn discover_from(tables: &Tables<'_>, ram: &[(u64, u64)], boot_apic_id: Option<u32>) -> Found {
    let ram: Vec<PhysicalRange> = ram.iter().map(|(start, end)| PhysicalRange::new(*start, *end)).collect();
    let mut topology = Box::new(Topology::empty());
    let mut warnings = Vec::new();
    topology.discover(tables, &ram, boot_apic_id, &mut |warning| warnings.push(warning));
    if let Err(invalid) = topology.validate().and_then(|()| topology.validate_coverage(&ram)) {
        panic!("{invalid}\n{topology:#}\n{warnings:#?}");
    }
    Found { topology, warnings }
}

/// All tables but the HMAT.
pub(crate) fn tables<'t>(madt: &'t [u8], srat: &'t [u8], slit: &'t [u8]) -> Tables<'t> {
    Tables { madt: Some(madt), srat: Some(srat), slit: Some(slit), hmat: None }
}
