//! Allocations that fail on purpose: those that the command line's `failslab=` and `fail_page_alloc=` ask for, and none
//! where it asks for none, or for what cannot be understood. `ci/test` boots this module with each of the three.

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::fault::{FaultAttributes, FaultError};
use quarry_unikernel::memory_service::{Gfp, Order};
use quarry_unikernel::option;

use crate::harness::Outcome;
use crate::{check, check_equal, tests};

const ATTEMPTS: usize = 300;

/// What the command line asks for; `None` also where that cannot be understood.
fn asked_for(key: &str, parse: fn(&str) -> Result<FaultAttributes, FaultError>) -> Option<FaultAttributes> {
    parse(option(key)?).ok()
}

/// Allocates often, there being memory, and holds the failures against what is asked for.
fn check_failures(asked_for: Option<FaultAttributes>, fails: impl Fn(Gfp) -> bool) -> Outcome {
    let failures = |gfp| (0..ATTEMPTS).filter(|_| fails(gfp)).count();
    let before = service().event_count(Event::FaultInjected);
    let failed = failures(Gfp::NOWAIT);
    let injected = service().event_count(Event::FaultInjected) - before;
    check_equal!(failed as u64, injected, "failures, and those that were made");
    check_equal!(failed > 0, asked_for.is_some(), "whether any of {ATTEMPTS} failed, with {asked_for:?}");
    check!(failed < ATTEMPTS, "every one of {ATTEMPTS} failed, with {asked_for:?}");
    if asked_for.is_none_or(|attributes| attributes.filter.ignore_gfp_wait) {
        check_equal!(failures(Gfp::KERNEL), 0, "failures of those that may wait");
    }
    Ok(())
}

fn objects_fail_as_the_command_line_says() -> Outcome {
    let asked_for = asked_for("failslab", FaultAttributes::parse_failslab);
    check_equal!(service().failslab_attributes(), asked_for, "what makes objects fail");
    check_failures(asked_for, |gfp| {
        let object = service().kmalloc(100, gfp);
        // SAFETY: freed once; null is ignored.
        unsafe { service().kfree(object) };
        object.is_null()
    })
}

fn page_blocks_fail_as_the_command_line_says() -> Outcome {
    let asked_for = asked_for("fail_page_alloc", FaultAttributes::parse_fail_page_alloc);
    check_equal!(service().fail_page_alloc_attributes(), asked_for, "what makes page blocks fail");
    let order = Order::new(2).ok_or("there is no order 2")?;
    check_failures(asked_for, |gfp| {
        let block = service().alloc_pages(gfp, order);
        block.inspect(|&block| service().__free_pages(block, order)).is_none()
    })
}

tests! { "faults":
    objects_fail_as_the_command_line_says,
    page_blocks_fail_as_the_command_line_says,
}
