//! Files from QEMU.

use quarry_unikernel::fw_cfg::{FileError, file};

use crate::harness::Outcome;
use crate::team::without_loss;
use crate::{check, check_equal, tests};

/// Where QEMU keeps the ACPI tables it has firmware load: more than fits in one buffer of the device's driver.
const TABLES: &str = "etc/acpi/tables";
const MOST: u64 = 1 << 20;

fn a_file_is_read_to_its_end() -> Outcome {
    without_loss(|| {
        let read = || file(TABLES, MOST).map_err(|error| alloc::format!("{error}"));
        let Some(tables) = read()? else { return Err("QEMU has no ACPI tables for firmware".into()) };
        check!(tables.len() > 64 << 10, "{} bytes of tables", tables.len());
        for signature in ["DSDT", "FACP", "APIC"] {
            let found = tables.windows(4).filter(|window| *window == signature.as_bytes()).count();
            check_equal!(found, 1, "tables with the signature {signature}");
        }
        check!(read()?.as_ref() == Some(&tables), "the file is another when it is read again");
        Ok(())
    })
}

fn a_file_there_is_not_is_none() -> Outcome {
    without_loss(|| {
        for name in ["etc/acpi/table", "etc/acpi/tables/", "opt/quarry/nothing", ""] {
            check_equal!(file(name, MOST), Ok(None), "the file {name:?}");
        }
        Ok(())
    })
}

fn a_file_too_large_is_refused_with_its_size() -> Outcome {
    let bytes = file(TABLES, MOST).map(|found| found.map_or(0, |contents| contents.len() as u64));
    let bytes = bytes.map_err(|error| alloc::format!("{error}"))?;
    check_equal!(file(TABLES, bytes - 1), Err(FileError::TooLarge { bytes, most: bytes - 1 }), "one byte too many");
    check!(matches!(file(TABLES, bytes), Ok(Some(_))), "a file of exactly the most bytes is refused");
    Ok(())
}

tests! { "fw_cfg":
    a_file_is_read_to_its_end,
    a_file_there_is_not_is_none,
    a_file_too_large_is_refused_with_its_size,
}
