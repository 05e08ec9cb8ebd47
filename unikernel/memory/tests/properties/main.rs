//! Any sequence of calls on any machine: no two allocations overlap, contents stay, nodes and zones are what was asked
//! for, failures have a reason, and at the end everything is back.

mod caches;
#[path = "../support/cases.rs"]
mod cases;
mod machine;
mod model;
mod movables;
mod policies;
mod pools;
mod step;

use model::Model;
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases::cases(48))]

    #[test]
    fn the_service_keeps_its_promises(
        machine in machine::machine(),
        steps in prop::collection::vec(step::step(), 1..120),
    ) {
        let mut model = Model::new(&machine);
        for (number, step) in steps.into_iter().enumerate() {
            model.take(step);
            if number % 16 == 15 {
                model.check();
            }
        }
        model.finish();
    }
}
