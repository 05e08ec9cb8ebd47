//! Writes the tables the tests of `quarry-topology` have as corpus entries of the `discover` target, each once as it is
//! and once with the request that headers and checksums be put right after mutation.

#[path = "../../tests/topology/machines.rs"]
mod machines;
#[path = "../../tests/topology/oracle.rs"]
#[allow(dead_code, reason = "only the encoding is used here")]
mod oracle;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/discover");
    std::fs::create_dir_all(&folder)?;
    for known in &machines::MACHINES {
        let machine = oracle::Machine::new(&known.tables, known.ram, Some(known.boot_apic_id));
        std::fs::write(folder.join(known.name), machine.to_bytes(false))?;
        std::fs::write(folder.join(format!("{}-repaired", known.name)), machine.to_bytes(true))?;
    }
    println!("wrote {} corpus entries to {}", 2 * machines::MACHINES.len(), folder.display());
    Ok(())
}
