//! Sessions in order and out of it.

use super::*;

fn run(rows: u64) -> Record {
    Record::Run(Run { schema: quarry_record::SCHEMA_VERSION, rows, ..Run::default() })
}

fn result(errors: u64) -> Record {
    Record::Result(Measurement { errors, ..Measurement::default() })
}

fn test(name: &str, status: TestStatus) -> Record {
    Record::Test(Test { name: name.into(), status, message: None })
}

fn end() -> Record {
    Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 })
}

fn session(records: &[Record]) -> Session {
    let mut session = Session::default();
    for record in records {
        session.take("a line for people").expect("people's lines are never wrong");
        session.take(&record.to_line()).expect("the record is in its place");
    }
    session
}

fn verdict(records: &[Record], exit: Exit) -> String {
    match session(records).verdict(exit, "") {
        Ok(()) => "ok".into(),
        Err(failure) => failure.to_string(),
    }
}

#[test]
fn a_session_passes_through_its_phases() {
    let mut session = Session::default();
    assert_eq!(session.phase(), Phase::Booting);
    for (record, phase) in [(run(1), Phase::Working), (result(0), Phase::Working), (end(), Phase::Ended)] {
        assert_eq!(session.take(&record.to_line()).expect("it is in its place"), Some(record));
        assert_eq!(session.phase(), phase);
    }
    session.verdict(Exit::Success, "").expect("all came as announced");
}

#[test]
fn what_a_guest_is_at_is_known_until_its_next_result() {
    let alive = Record::Alive(quarry_record::Alive { doing: "mix, CPUs 8: sample 3 of 101".into() });
    assert_eq!(session(&[run(1), alive.clone()]).doing.as_deref(), Some("mix, CPUs 8: sample 3 of 101"));
    let over = session(&[run(1), alive, result(0)]);
    assert_eq!((over.doing, over.results.len()), (None, 1));
}

#[test]
fn records_out_of_place_are_told_with_their_line() {
    let complaint = |records: &[Record], next: Record| {
        session(records).take(&next.to_line()).expect_err("it is out of place").to_string()
    };
    let complaints = [
        complaint(&[], result(0)),
        complaint(&[], end()),
        complaint(&[run(0)], run(0)),
        complaint(&[run(0), end()], end()),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    line 1 of the guest's output is a `result` record before its `run` record
    line 1 of the guest's output is a `end` record before its `run` record
    line 3 of the guest's output is a `run` record where there was one before
    line 5 of the guest's output is a `end` record after its `end` record
    ");
}

#[test]
fn a_line_that_is_half_a_record_is_told() {
    let complaint = session(&[run(1)]).take("{\"type\":\"result\",").expect_err("it is half a record").to_string();
    insta::assert_snapshot!(complaint, @"line 3 of the guest's output is not a record: EOF while parsing a value at line 1 column 17");
}

#[test]
fn every_bad_end_has_its_sentence() {
    let failed = Record::End(End { status: EndStatus::Failed, reason: Some("sizes=x: use numbers".into()), errors: 0 });
    let silent = Record::End(End { status: EndStatus::Failed, reason: None, errors: 3 });
    let counting = Record::End(End { status: EndStatus::Ok, reason: None, errors: 3 });
    let wrong_sum = Record::Statistics(Statistics { adds_up: false, ..Statistics::default() });
    let hurried_sum = Record::Statistics(Statistics { approximate: true, ..Statistics::default() });
    let verdicts = [
        verdict(&[], Exit::Success),
        verdict(&[], Exit::LoaderRefused),
        verdict(&[], Exit::Signal(11)),
        verdict(&[failed], Exit::Failed),
        verdict(&[run(1), silent], Exit::Failed),
        verdict(&[run(0), counting], Exit::Success),
        verdict(&[run(1), result(2), end()], Exit::Success),
        verdict(&[run(0), wrong_sum, end()], Exit::Success),
        verdict(&[run(0), hurried_sum, end()], Exit::Success),
        verdict(&[run(2), result(0), end()], Exit::Success),
        verdict(&[run(1), result(0), end()], Exit::Failed),
        verdict(&[run(1), result(0)], Exit::Success),
        verdict(&[run(1), result(0)], Exit::Panicked),
        verdict(&[run(1), result(0)], Exit::Other(0)),
        verdict(&[run(1), result(0)], Exit::Other(1)),
        verdict(&[run(1), result(0), end()], Exit::Success),
    ];
    insta::assert_snapshot!(verdicts.join("\n"), @"
    the guest ended without its last record
    the loader refused to boot: it does not say why
    the guest died: QEMU was killed by signal 11
    sizes=x: use numbers
    the guest failed and does not say why
    the guest counted 3 errors
    the guest counted 2 errors
    the guest counted 1 error
    ok
    the guest announced 2 results but gave 1
    the guest's last record says all is well, but its exit status that it failed
    the guest ended without its last record
    the guest panicked
    the guest died: the machine reset or powered off, most likely by a triple fault
    the guest died: exit status 1
    ok
    ");
}

#[test]
fn a_guest_that_dies_names_the_test_it_died_in() {
    let records = [run(2), test("a", TestStatus::Started), test("a", TestStatus::Ok), test("b", TestStatus::Started)];
    assert_eq!(verdict(&records, Exit::Panicked), "the guest panicked in the test b");
    assert_eq!(verdict(&records[..3], Exit::Panicked), "the guest panicked");
}

#[test]
fn a_panic_is_told_with_its_message_whenever_it_comes() {
    let panic = Record::End(End { status: EndStatus::Failed, reason: Some("panic: no frame".into()), errors: 1 });
    for before in [vec![], vec![run(0)], vec![run(0), end()]] {
        let records = [before, vec![panic.clone()]].concat();
        assert_eq!(verdict(&records, Exit::Panicked), "the guest panicked: no frame");
    }
}

#[test]
fn a_failed_test_is_an_error_even_when_the_guest_forgets_it() {
    let records = [run(1), test("a", TestStatus::Started), test("a", TestStatus::Failed), end()];
    assert_eq!(verdict(&records, Exit::Success), "the guest counted 1 error");
}

#[test]
fn the_loaders_reason_and_qemus_complaint_are_passed_on() {
    let mut session = Session::default();
    session.take("quarry-loader: error: there is no image").expect("it is a line for people");
    let refused = session.verdict(Exit::LoaderRefused, "").expect_err("it refused").to_string();
    assert_eq!(refused, "the loader refused to boot: there is no image");
    let complaint = Session::default().verdict(Exit::Other(1), "qemu: no such\nmachine").expect_err("it gave up");
    assert_eq!(complaint.to_string(), "QEMU gave up (exit status 1): qemu: no such; machine");
}

#[test]
fn only_the_last_lines_are_kept() {
    let mut session = Session::default();
    for number in 0..100 {
        session.take(&number.to_string()).expect("it is a line for people");
    }
    let kept: Vec<_> = session.last_lines().collect();
    assert_eq!((kept.len(), kept.first(), kept.last()), (LAST_LINES, Some(&"76"), Some(&"99")));
}
