//! Every record as a line and back: what people read, by snapshot, and that nothing is lost, by random records.

use proptest::prelude::*;
use quarry_record::{
    Alive, Cpu, Edge, EdgeCalls, End, EndStatus, Footprint, Latency, Locks, Measurement, Node, Record, RecordError,
    Report, ReportSubject, Run, SCHEMA_VERSION, Series, Statistics, StatisticsRow, Stress, Summary, Test, TestStatus,
    Topology, TracePiece,
};

fn run() -> Run {
    let node = |id: u32| Node {
        id,
        domain: Some(id),
        memory_bytes: 1 << 30,
        memory: vec![[u64::from(id) << 30, u64::from(id + 1) << 30]],
        cpus: vec![Cpu { id, apic_id: 2 * id }],
    };
    Run {
        schema: SCHEMA_VERSION,
        git: "0123abc".into(),
        image: "bench".into(),
        cpu: "QEMU TCG CPU".into(),
        hypervisor: "TCG".into(),
        accelerator: "tcg".into(),
        icount: false,
        tsc_hz: 1_000_000_000,
        tsc_method: "PIT".into(),
        command_line: "mode=run".into(),
        topology: Topology {
            nodes: vec![node(0), node(1)],
            distances: vec![vec![10, 20], vec![20, 10]],
            source: "SRAT".into(),
            distance_source: "SLIT".into(),
        },
        warnings: 0,
        cpus_online: 2,
        boot_microseconds: 4200,
        seed: 1,
        rows: 3,
    }
}

fn measurement() -> Measurement {
    let summary = |median: f64| Summary { min: median - 1.0, median, p99: median + 4.5, spread: 2.0 };
    Measurement {
        workload: "batch".into(),
        allocator: "quarry".into(),
        size: Some(64),
        phase: Some("free".into()),
        cpus: 2,
        ops: 1000,
        ns_per_op: summary(20.0),
        cycles_per_op: summary(40.0),
        empty_ns_per_op: 1.5,
        empty_cycles_per_op: 3.0,
        samples: vec![39.0, 40.0, 44.5],
        errors: 0,
        ..Measurement::default()
    }
}

#[test]
fn a_run_reads() {
    insta::assert_snapshot!(Record::Run(run()).to_line(), @r#"{"type":"run","schema":2,"git":"0123abc","image":"bench","cpu":"QEMU TCG CPU","hypervisor":"TCG","accelerator":"tcg","icount":false,"tsc_hz":1000000000,"tsc_method":"PIT","command_line":"mode=run","topology":{"nodes":[{"id":0,"domain":0,"memory_bytes":1073741824,"memory":[[0,1073741824]],"cpus":[{"id":0,"apic_id":0}]},{"id":1,"domain":1,"memory_bytes":1073741824,"memory":[[1073741824,2147483648]],"cpus":[{"id":1,"apic_id":2}]}],"distances":[[10,20],[20,10]],"source":"SRAT","distance_source":"SLIT"},"warnings":0,"cpus_online":2,"boot_microseconds":4200,"seed":1,"rows":3}"#);
}

#[test]
fn what_was_watched_reads() {
    let held = Series {
        name: "memory held".into(),
        unit: "bytes".into(),
        over: "seconds".into(),
        points: vec![(0.0, 4096.0), (0.5, 8192.0)],
    };
    let line = Record::Result(Measurement { series: vec![held], ..Measurement::default() }).to_line();
    let (_, series) = line.split_once(r#","series":"#).expect("there is one");
    insta::assert_snapshot!(series, @r#"[{"name":"memory held","unit":"bytes","over":"seconds","points":[[0.0,4096.0],[0.5,8192.0]]}],"errors":0}"#);
}

#[test]
fn results_read() {
    insta::assert_snapshot!(Record::Result(measurement()).to_line(), @r#"{"type":"result","workload":"batch","allocator":"quarry","size":64,"phase":"free","cpus":2,"ops":1000,"ns_per_op":{"min":19.0,"median":20.0,"p99":24.5,"spread":2.0},"cycles_per_op":{"min":39.0,"median":40.0,"p99":44.5,"spread":2.0},"empty_ns_per_op":1.5,"empty_cycles_per_op":3.0,"samples":[39.0,40.0,44.5],"errors":0}"#);
    let page = Measurement { size: None, phase: None, order: Some(3), workload: "page".into(), ..measurement() };
    insta::assert_snapshot!(Record::Result(page).to_line(), @r#"{"type":"result","workload":"page","allocator":"quarry","order":3,"cpus":2,"ops":1000,"ns_per_op":{"min":19.0,"median":20.0,"p99":24.5,"spread":2.0},"cycles_per_op":{"min":39.0,"median":40.0,"p99":44.5,"spread":2.0},"empty_ns_per_op":1.5,"empty_cycles_per_op":3.0,"samples":[39.0,40.0,44.5],"errors":0}"#);
    let counted = Measurement {
        phase: None,
        variant: Some("remote".into()),
        instructions_per_op: Some(Summary { min: 30.0, median: 30.0, p99: 30.0, spread: 0.0 }),
        ..measurement()
    };
    insta::assert_snapshot!(Record::Result(counted).to_line(), @r#"{"type":"result","workload":"batch","allocator":"quarry","size":64,"variant":"remote","cpus":2,"ops":1000,"ns_per_op":{"min":19.0,"median":20.0,"p99":24.5,"spread":2.0},"cycles_per_op":{"min":39.0,"median":40.0,"p99":44.5,"spread":2.0},"empty_ns_per_op":1.5,"empty_cycles_per_op":3.0,"instructions_per_op":{"min":30.0,"median":30.0,"p99":30.0,"spread":0.0},"samples":[39.0,40.0,44.5],"errors":0}"#);
}

#[test]
fn outcomes_read() {
    let rows = vec![
        StatisticsRow { name: "free".into(), bytes: 4096 },
        StatisticsRow { name: "reserved".into(), bytes: 8192 },
    ];
    let records = [
        Record::Statistics(Statistics { total: 12288, rows, adds_up: true, approximate: false }),
        Record::Report(Report {
            name: "meminfo".into(),
            text: "MemTotal:             12 kB\n".into(),
            subjects: vec![ReportSubject { name: String::new(), values: vec![("MemTotal".into(), 12)] }],
        }),
        Record::Stress(Stress {
            seconds: 30,
            cpus: 4,
            operations: 100,
            handed_on: 7,
            passed: true,
            ..Stress::default()
        }),
        Record::Edge(Edge {
            seconds: 60,
            cpus: 4,
            threads: 20,
            calls: vec![EdgeCalls { way: "atomic".into(), attempts: 9, failures: 2, longest_microseconds: 31 }],
            in_handlers: 4,
            given_up: 3,
            events: vec![("allocstall".into(), 5)],
            complaints: vec!["8 bytes did not come back".into()],
        }),
        Record::Trace(TracePiece { text: "a 0 1 64\nf 1 1\n".into(), dropped: None }),
        Record::Trace(TracePiece { text: String::new(), dropped: Some(3) }),
        Record::Test(Test { name: "timer::fires".into(), status: TestStatus::Started, message: None }),
        Record::Test(Test { name: "timer::fires".into(), status: TestStatus::Failed, message: Some("late".into()) }),
        Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 }),
        Record::End(End { status: EndStatus::Failed, reason: Some("2 errors".into()), errors: 2 }),
    ];
    insta::assert_snapshot!(records.map(|record| record.to_line()).join("\n"), @r#"
    {"type":"statistics","total":12288,"rows":[{"name":"free","bytes":4096},{"name":"reserved","bytes":8192}],"adds_up":true,"approximate":false}
    {"type":"report","name":"meminfo","text":"MemTotal:             12 kB\n","subjects":[{"name":"","values":[["MemTotal",12]]}]}
    {"type":"stress","seconds":30,"cpus":4,"operations":100,"handed_on":7,"errors":0,"failed_allocations":0,"lost_bytes":0,"passed":true}
    {"type":"edge","seconds":60,"cpus":4,"threads":20,"calls":[{"way":"atomic","attempts":9,"failures":2,"longest_microseconds":31}],"in_handlers":4,"given_up":3,"events":[["allocstall",5]],"complaints":["8 bytes did not come back"]}
    {"type":"trace","text":"a 0 1 64\nf 1 1\n"}
    {"type":"trace","text":"","dropped":3}
    {"type":"test","name":"timer::fires","status":"started"}
    {"type":"test","name":"timer::fires","status":"failed","message":"late"}
    {"type":"end","status":"ok","errors":0}
    {"type":"end","status":"failed","reason":"2 errors","errors":2}
    "#);
}

#[test]
fn fields_of_tomorrow_are_ignored() {
    let line = r#"{"type":"end","status":"ok","errors":0,"mood":"good"}"#;
    assert_eq!(Record::from_line(line), Ok(Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 })));
}

#[test]
fn another_schema_is_named_even_when_fields_are_missing() {
    let error = Record::from_line(r#"{"type":"run","schema":7}"#).expect_err("no such schema yet");
    assert_eq!(error, RecordError::Schema { found: 7 });
    let whole = Record::Run(Run { schema: 3, ..run() }).to_line();
    assert_eq!(Record::from_line(&whole), Err(RecordError::Schema { found: 3 }));
}

#[test]
fn malformed_lines_are_told_apart() {
    let complaint = |line: &str| Record::from_line(line).expect_err("the line is wrong").to_string();
    let complaints = [
        complaint(r#"{"type":"end","status":"ok","err"#),
        complaint(r#"{"type":"end","status":"ok"}"#),
        complaint(r#"{"type":"song"}"#),
        complaint(r#"{"status":"ok"}"#),
        complaint(r#"{"type":"run","schema":3}"#),
    ];
    insta::assert_snapshot!(complaints.join("\n"), @"
    not a record: EOF while parsing a string at line 1 column 32
    not a record: missing field `errors`
    not a record: unknown variant `song`, expected one of `run`, `result`, `statistics`, `report`, `stress`, `edge`, `alive`, `trace`, `test`, `end` at line 1 column 14
    not a record: missing field `type` at line 1 column 15
    records of schema version 3, but this program reads version 2
    ");
}

fn number() -> impl Strategy<Value = f64> {
    proptest::num::f64::POSITIVE | proptest::num::f64::NEGATIVE | proptest::num::f64::ZERO
}

prop_compose! {
    fn summary()(min in number(), median in number(), p99 in number(), spread in number())
        -> Summary { Summary { min, median, p99, spread } }
}

prop_compose! {
    fn any_latency()(
        calls in any::<u64>(), (p50, p90, p99, p99_9) in (number(), number(), number(), number()),
        (p99_99, worst, clock) in (number(), number(), number()),
        buckets in proptest::collection::vec((number(), any::<u64>()), 0..5),
    ) -> Latency { Latency { calls, p50, p90, p99, p99_9, p99_99, worst, clock, buckets } }
}

prop_compose! {
    fn any_footprint()((peak_live, peak_held, end_held) in any::<(u64, u64, u64)>())
        -> Footprint { Footprint { peak_live, peak_held, end_held } }
}

prop_compose! {
    fn any_locks()(zone in number(), depot in number()) -> Locks { Locks { zone, depot } }
}

prop_compose! {
    fn any_series()((name, unit, over) in any::<(String, String, String)>(), points in proptest::collection::vec((number(), number()), 0..5))
        -> Series { Series { name, unit, over, points } }
}

prop_compose! {
    fn any_measurement()(
        workload in ".*", allocator in ".*", size in any::<Option<u64>>(), order in any::<Option<u32>>(),
        variant in proptest::option::of(".*"), phase in proptest::option::of(".*"), cpus in any::<u32>(), ops in any::<u64>(),
        (ns_per_op, cycles_per_op) in (summary(), summary()), instructions_per_op in proptest::option::of(summary()),
        (empty_ns_per_op, empty_cycles_per_op, errors) in (number(), number(), any::<u64>()),
        samples in proptest::collection::vec(number(), 0..20),
        (ops_per_second, latency, footprint, locks) in (
            proptest::option::of(summary()), proptest::option::of(any_latency()),
            proptest::option::of(any_footprint()), proptest::option::of(any_locks())
        ),
        (fairness, remote_frees, hand_overs, samples_wanted, refusal, series) in (
            proptest::option::of(number()), proptest::option::of(number()), any::<Option<u64>>(),
            any::<Option<u64>>(), proptest::option::of(".*"), proptest::collection::vec(any_series(), 0..3)
        ),
    ) -> Measurement {
        Measurement {
            workload, allocator, size, order, variant, phase, cpus, ops, ns_per_op, cycles_per_op, empty_ns_per_op,
            empty_cycles_per_op, instructions_per_op, samples, errors, ops_per_second, latency, footprint, fairness,
            remote_frees, locks, hand_overs, samples_wanted, refusal, series,
        }
    }
}

prop_compose! {
    fn any_node()(
        id in any::<u32>(), domain in any::<Option<u32>>(), memory_bytes in any::<u64>(),
        memory in proptest::collection::vec(any::<[u64; 2]>(), 0..3),
        cpus in proptest::collection::vec(any::<(u32, u32)>(), 0..3),
    ) -> Node {
        let cpus = cpus.into_iter().map(|(id, apic_id)| Cpu { id, apic_id }).collect();
        Node { id, domain, memory_bytes, memory, cpus }
    }
}

prop_compose! {
    fn any_run()(
        texts in any::<[String; 9]>(), nodes in proptest::collection::vec(any_node(), 0..3), distances in any::<Vec<Vec<u8>>>(),
        (icount, warnings, cpus_online) in any::<(bool, u32, u32)>(),
        (tsc_hz, boot_microseconds, seed, rows) in any::<(u64, u64, u64, u64)>(),
    ) -> Run {
        let [git, image, cpu, hypervisor, accelerator, tsc_method, command_line, source, distance_source] = texts;
        Run {
            schema: SCHEMA_VERSION,
            topology: Topology { nodes, distances, source, distance_source },
            git, image, cpu, hypervisor, accelerator, icount, tsc_hz, tsc_method, command_line, warnings, cpus_online,
            boot_microseconds, seed, rows,
        }
    }
}

fn any_outcome() -> impl Strategy<Value = Record> {
    let rows = any::<Vec<(String, u64)>>();
    let statistics = (any::<u64>(), rows, any::<[bool; 2]>()).prop_map(|(total, rows, [adds_up, approximate])| {
        let rows = rows.into_iter().map(|(name, bytes)| StatisticsRow { name, bytes }).collect();
        Record::Statistics(Statistics { total, rows, adds_up, approximate })
    });
    let subject = any::<(String, Vec<(String, u64)>)>().prop_map(|(name, values)| ReportSubject { name, values });
    let report = (any::<[String; 2]>(), proptest::collection::vec(subject, 0..3))
        .prop_map(|([name, text], subjects)| Record::Report(Report { name, text, subjects }));
    let stress = any::<(u64, u32, [u64; 5], bool)>().prop_map(|(seconds, cpus, counts, passed)| {
        let [operations, handed_on, errors, failed_allocations, lost_bytes] = counts;
        Record::Stress(Stress { seconds, cpus, operations, handed_on, errors, failed_allocations, lost_bytes, passed })
    });
    let edge = (any::<[u32; 2]>(), any::<[u64; 3]>(), any::<Vec<(String, [u64; 3])>>(), any::<Vec<(String, u64)>>());
    let edge = (edge, any::<Vec<String>>()).prop_map(|(([cpus, threads], numbers, calls, events), complaints)| {
        let [seconds, in_handlers, given_up] = numbers;
        let calls = calls.into_iter().map(|(way, [attempts, failures, longest_microseconds])| EdgeCalls {
            way,
            attempts,
            failures,
            longest_microseconds,
        });
        Record::Edge(Edge { seconds, cpus, threads, calls: calls.collect(), in_handlers, given_up, events, complaints })
    });
    let trace = any::<(String, Option<u64>)>().prop_map(|(text, dropped)| Record::Trace(TracePiece { text, dropped }));
    let statuses = prop_oneof![Just(TestStatus::Started), Just(TestStatus::Ok), Just(TestStatus::Failed)];
    let test = (any::<String>(), statuses, any::<Option<String>>())
        .prop_map(|(name, status, message)| Record::Test(Test { name, status, message }));
    let verdicts = prop_oneof![Just(EndStatus::Ok), Just(EndStatus::Failed)];
    let end = (verdicts, any::<Option<String>>(), any::<u64>())
        .prop_map(|(status, reason, errors)| Record::End(End { status, reason, errors }));
    let alive = any::<String>().prop_map(|doing| Record::Alive(Alive { doing }));
    prop_oneof![statistics, report, stress, edge, trace, alive, test, end]
}

proptest! {
    #[test]
    fn every_record_survives_the_way_there_and_back(
        record in prop_oneof![
            any_run().prop_map(Record::Run),
            any_measurement().prop_map(Record::Result),
            any_outcome(),
        ]
    ) {
        let line = record.to_line();
        prop_assert!(Record::is_record(&line));
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(Record::from_line(&line), Ok(record));
    }

    #[test]
    fn no_text_upsets_the_reader(line in r"\{.*") {
        if let Ok(record) = Record::from_line(&line) {
            prop_assert_eq!(Record::from_line(&record.to_line()), Ok(record));
        }
    }
}
