//! Discovery of any bytes, judged by the function the bounded test of `quarry-topology` uses as well.
#![no_main]

#[path = "../../tests/topology/oracle.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oracle::check(&oracle::Machine::from_bytes(bytes));
});
