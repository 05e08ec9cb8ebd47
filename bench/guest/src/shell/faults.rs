//! The command `fault`: which allocations fail on purpose, in the words of the guest's command line.

use alloc::string::{String, ToString};

use quarry_shell::{Fault, Injector};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::fault::FaultAttributes;
use quarry_unikernel::{print, println};

/// Does it, and tells what holds from now on.
///
/// # Errors
///
/// A sentence on what a description has that is not understood; then nothing is changed.
pub(super) fn apply(fault: Fault<'_>) -> Result<(), String> {
    match fault {
        Fault::Tell => {}
        Fault::Off => end(),
        Fault::OffOne(injector) => set(injector, None),
        Fault::Set(injector, description) => {
            let parsed = match injector {
                Injector::Failslab => FaultAttributes::parse_failslab(description),
                Injector::FailPageAlloc => FaultAttributes::parse_fail_page_alloc(description),
            };
            set(injector, Some(parsed.map_err(|error| error.to_string())?));
        }
    }
    Injector::ALL.into_iter().for_each(tell);
    Ok(())
}

/// Lets everything be allocated again.
pub(super) fn end() {
    for injector in Injector::ALL {
        set(injector, None);
    }
}

fn set(injector: Injector, attributes: Option<FaultAttributes>) {
    match injector {
        Injector::Failslab => service().failslab(attributes),
        Injector::FailPageAlloc => service().fail_page_alloc(attributes),
    }
}

/// Allocates nothing: what holds may be that nothing can be allocated.
fn tell(injector: Injector) {
    let attributes = match injector {
        Injector::Failslab => service().failslab_attributes(),
        Injector::FailPageAlloc => service().fail_page_alloc_attributes(),
    };
    print!("{:15}  ", injector.name());
    let Some(FaultAttributes { interval, probability, space, times, .. }) = attributes else {
        println!("off");
        return;
    };
    print!("interval {interval}, probability {probability}, space {space}, times ");
    match times {
        Some(times) => println!("{times}"),
        None => println!("-1"),
    }
}
