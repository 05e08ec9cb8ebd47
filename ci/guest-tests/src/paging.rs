//! What is mapped and how: tried with probes, and looked up in the page tables.

use core::sync::atomic::AtomicU64;

use quarry_unikernel::probe::{can_read, can_write};
use quarry_unikernel::rights;

use crate::harness::Outcome;
use crate::{check, check_equal, tests};

const READ_ONLY: Option<(bool, bool)> = Some((false, false));
const READ_WRITE: Option<(bool, bool)> = Some((true, false));
const EXECUTE: Option<(bool, bool)> = Some((false, true));

static CONSTANT: [u64; 4] = [3, 1, 4, 1];
static DATA: AtomicU64 = AtomicU64::new(1);

fn the_null_page_cannot_be_touched() -> Outcome {
    for address in [0, 8, 4095] {
        check!(!can_read(address) && !can_write(address), "address {address} can be touched");
    }
    Ok(())
}

fn text_is_not_writable() -> Outcome {
    let text = text_is_not_writable as *const () as u64;
    check_equal!(rights(text), EXECUTE, "text may be (written, executed)");
    check!(can_read(text) && !can_write(text), "text is not readable, or writable");
    Ok(())
}

fn constants_are_neither_writable_nor_executable() -> Outcome {
    let constant = (&raw const CONSTANT).addr() as u64;
    check_equal!(rights(constant), READ_ONLY, "constants may be (written, executed)");
    check!(can_read(constant) && !can_write(constant), "constants are not readable, or writable");
    let data = (&raw const DATA).addr() as u64;
    check_equal!(rights(data), READ_WRITE, "data may be (written, executed)");
    check!(can_write(data), "data is not writable");
    Ok(())
}

tests! { "paging":
    the_null_page_cannot_be_touched,
    text_is_not_writable,
    constants_are_neither_writable_nor_executable,
}
