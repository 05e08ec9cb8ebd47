//! Writes firmware tables: the counterpart of the parser, so that tests can say what a table means and not its bytes.

/// A table being written; [`Self::done`] sets length and checksum.
#[derive(Clone, Debug)]
pub(crate) struct TableWriter {
    bytes: Vec<u8>,
}

impl TableWriter {
    fn new(signature: [u8; 4], revision: u8, fixed_part: &[u8]) -> Self {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(&signature);
        bytes[8] = revision;
        bytes[10..16].copy_from_slice(b"QUARRY");
        bytes[16..24].copy_from_slice(b"TOPOLOGY");
        bytes.extend_from_slice(fixed_part);
        Self { bytes }
    }

    /// The next entry's offset.
    pub(crate) fn offset(&self) -> usize {
        self.bytes.len()
    }

    /// Any bytes.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Overwrites bytes already written.
    pub(crate) fn patch(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn done(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("test tables are small");
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut self.bytes);
        self.bytes
    }
}

/// Makes a table's checksum right.
pub(crate) fn seal(table: &mut [u8]) {
    table[9] = 0;
    table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
}

pub(crate) const ENABLED: u32 = 1;
pub(crate) const HOT_PLUGGABLE: u32 = 2;
pub(crate) const NON_VOLATILE: u32 = 4;
pub(crate) const ONLINE_CAPABLE: u32 = 2;

/// A MADT with the usual local APIC address and 8259s.
pub(crate) fn madt() -> TableWriter {
    madt_at(0xfee0_0000, 1)
}

pub(crate) fn madt_at(local_apic_address: u32, flags: u32) -> TableWriter {
    let mut fixed_part = [0; 8];
    fixed_part[..4].copy_from_slice(&local_apic_address.to_le_bytes());
    fixed_part[4..].copy_from_slice(&flags.to_le_bytes());
    TableWriter::new(*b"APIC", 5, &fixed_part)
}

/// A MADT of enabled CPUs.
pub(crate) fn madt_of(apic_ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
    apic_ids
        .into_iter()
        .fold(madt(), |madt, id| if id < 255 { madt.local_apic(id as u8, ENABLED) } else { madt.x2apic(id, ENABLED) })
        .done()
}

impl TableWriter {
    pub(crate) fn local_apic(self, apic_id: u8, flags: u32) -> Self {
        self.raw(&[0, 8, apic_id, apic_id]).raw(&flags.to_le_bytes())
    }

    pub(crate) fn x2apic(self, apic_id: u32, flags: u32) -> Self {
        self.raw(&[9, 16, 0, 0]).raw(&apic_id.to_le_bytes()).raw(&flags.to_le_bytes()).raw(&apic_id.to_le_bytes())
    }

    pub(crate) fn local_apic_address(self, address: u64) -> Self {
        self.raw(&[5, 12, 0, 0]).raw(&address.to_le_bytes())
    }
}

pub(crate) fn srat() -> TableWriter {
    srat_of_revision(3)
}

pub(crate) fn srat_of_revision(revision: u8) -> TableWriter {
    TableWriter::new(*b"SRAT", revision, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

impl TableWriter {
    pub(crate) fn processor(self, domain: u32, apic_id: u8, flags: u32) -> Self {
        let domain = domain.to_le_bytes();
        self.raw(&[0, 16, domain[0], apic_id])
            .raw(&flags.to_le_bytes())
            .raw(&[0, domain[1], domain[2], domain[3], 0, 0, 0, 0])
    }

    pub(crate) fn processor_x2apic(self, domain: u32, apic_id: u32, flags: u32) -> Self {
        self.raw(&[2, 24, 0, 0])
            .raw(&domain.to_le_bytes())
            .raw(&apic_id.to_le_bytes())
            .raw(&flags.to_le_bytes())
            .raw(&[0; 8])
    }

    /// Of the type that can hold the id.
    pub(crate) fn cpu(self, domain: u32, apic_id: u32) -> Self {
        match u8::try_from(apic_id) {
            Ok(apic_id) if apic_id != 255 => self.processor(domain, apic_id, ENABLED),
            _ => self.processor_x2apic(domain, apic_id, ENABLED),
        }
    }

    pub(crate) fn memory(self, domain: u32, start: u64, end: u64) -> Self {
        self.memory_flags(domain, start, end - start, ENABLED)
    }

    pub(crate) fn memory_flags(self, domain: u32, start: u64, bytes: u64, flags: u32) -> Self {
        self.raw(&[1, 40])
            .raw(&domain.to_le_bytes())
            .raw(&[0, 0])
            .raw(&start.to_le_bytes())
            .raw(&bytes.to_le_bytes())
            .raw(&[0; 4])
            .raw(&flags.to_le_bytes())
            .raw(&[0; 8])
    }

    pub(crate) fn generic_initiator(self, domain: u32) -> Self {
        self.raw(&[5, 32, 0, 0]).raw(&domain.to_le_bytes()).raw(&[0; 16]).raw(&ENABLED.to_le_bytes()).raw(&[0; 4])
    }
}

/// A SLIT of any number of localities and any matrix.
pub(crate) fn slit(localities: u64, matrix: &[u8]) -> Vec<u8> {
    TableWriter::new(*b"SLIT", 1, &localities.to_le_bytes()).raw(matrix).done()
}

/// A SLIT whose matrix is square.
pub(crate) fn slit_of<const N: usize>(matrix: [[u8; N]; N]) -> Vec<u8> {
    slit(N as u64, matrix.as_flattened())
}

pub(crate) fn hmat() -> TableWriter {
    hmat_of_revision(2)
}

pub(crate) fn hmat_of_revision(revision: u8) -> TableWriter {
    TableWriter::new(*b"HMAT", revision, &[0; 4])
}

impl TableWriter {
    /// A structure of type 1.
    pub(crate) fn matrix(
        self,
        flags: u8,
        data_type: u8,
        unit: u64,
        initiators: &[u32],
        targets: &[u32],
        entries: &[u16],
    ) -> Self {
        let length = 32 + 4 * (initiators.len() + targets.len()) + 2 * entries.len();
        let mut table = self
            .raw(&[1, 0, 0, 0])
            .raw(&(length as u32).to_le_bytes())
            .raw(&[flags, data_type, 0, 0])
            .raw(&(initiators.len() as u32).to_le_bytes())
            .raw(&(targets.len() as u32).to_le_bytes())
            .raw(&[0; 4])
            .raw(&unit.to_le_bytes());
        for domain in initiators.iter().chain(targets) {
            table = table.raw(&domain.to_le_bytes());
        }
        for entry in entries {
            table = table.raw(&entry.to_le_bytes());
        }
        table
    }
}
