//! Traces from addresses: whatever is recorded, what is assembled is a trace.

use proptest::prelude::*;
use quarry_trace::{Assembly, Begun, Cpu, Flags, MOST_SIZE, Moment, Place, Request, Trace};

fn at(nanoseconds: u64) -> Moment {
    Moment { nanoseconds, cpu: Cpu(nanoseconds as u16 % 3) }
}

fn plain(size: u32) -> Request {
    Request { size, node: None, flags: Flags::default() }
}

#[test]
fn an_object_keeps_its_name_when_it_moves() {
    let mut assembly = Assembly::default();
    assembly.allocate(at(5), 0x100, plain(64));
    assembly.allocate(at(7), 0x200, plain(8));
    assert_eq!(assembly.resize(at(9), 0x100, 0x300, 500), Some(Begun::default()));
    assembly.allocate(at(10), 0x100, plain(32));
    assert_eq!(assembly.free(at(11), Place::Object(0x300)), Some(0));
    assembly.allocate_pages(at(12), 0x100, 3);
    assert_eq!(assembly.free(at(12), Place::Pages(0x100)), Some(3));
    insta::assert_snapshot!(assembly.into_trace(), @r"
    quarry-trace 1
    +0 a 2 0 64
    +2 a 1 1 8
    +2 r 0 0 500
    +1 a 1 2 32
    +1 f 2 0
    +1 p 0 3 3
    +0 q 0 3
    ");
}

#[test]
fn what_a_recording_lacks_is_put_in_or_left_out_and_told() {
    let mut assembly = Assembly::default();
    assert_eq!(assembly.free(at(1), Place::Object(0x100)), None);
    assert_eq!(assembly.resize(at(2), 0x100, 0x200, 8), None);
    assert!(assembly.allocate(at(3), 0x100, plain(MOST_SIZE + 1)).too_large);
    assert_eq!(assembly.allocate(at(4), 0x100, plain(8)), Begun::default());
    assert!(assembly.allocate(at(5), 0x100, plain(16)).free_was_missing);
    insta::assert_snapshot!(assembly.into_trace(), @r"
    quarry-trace 1
    +0 a 1 0 8
    +1 f 2 0
    +0 a 2 1 16
    ");
}

proptest! {
    #[test]
    fn any_calls_at_any_addresses_are_a_trace(
        calls in prop::collection::vec((0_u8..5, 0_u64..6, 0_u64..6, 0..MOST_SIZE + 2, 0_u64..9), 0..80)
    ) {
        let mut assembly = Assembly::default();
        for (kind, address, other, size, nanoseconds) in calls {
            let moment = at(nanoseconds);
            match kind {
                0 => drop(assembly.allocate(moment, address, plain(size))),
                1 => drop(assembly.resize(moment, address, other, size)),
                2 => drop(assembly.free(moment, Place::Object(address))),
                3 => drop(assembly.allocate_pages(moment, address, size as u8 % 12)),
                _ => drop(assembly.free(moment, Place::Pages(address))),
            }
        }
        let trace = assembly.into_trace();
        let text = trace.to_string();
        prop_assert_eq!(Trace::parse(&text), Ok(trace));
    }
}
