//! What the tests of contiguous memory share.

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{MallocType, Service, Topology};

pub(crate) const MIB: u64 = 1 << 20;

/// The type most tests use.
pub(crate) static TYPE: MallocType = MallocType::new("test", "memory of a test");

pub(crate) type TestService = Service<HostedMachine>;

/// A service on a machine of one node.
pub(crate) fn one_node(bytes: u64) -> &'static TestService {
    let topology = Topology::builder().node(bytes, 1).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space").service()
}

/// Physical address of a byte.
pub(crate) fn physical(service: &TestService, address: *mut u8) -> u64 {
    let frame = service.virt_to_page(address).expect("it is memory of the service");
    frame.physical() + address.addr() as u64 % 4096
}

#[track_caller]
pub(crate) fn assert_books_balance(service: &TestService, in_use: u64) {
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.in_use(), in_use, "{rows:#?}");
}
