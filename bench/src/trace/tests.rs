//! Lines of Linux's tools as traces, and what is told of a trace.

use proptest::prelude::*;
use quarry_trace::Trace;

use super::convert::{Converted, Only};
use super::info::Info;
use super::line::{Kind, kind};

/// A trace, and what is told of how it came about.
fn converted(text: &str, only: Option<Only>) -> String {
    let Converted { trace, counts } = Converted::of(text, only);
    assert_eq!(Trace::parse(&trace.to_string()).as_ref(), Ok(&trace));
    format!("{trace}\n{counts}")
}

#[test]
fn what_perf_script_prints_of_linux_5_10() {
    insta::assert_snapshot!(converted(include_str!("samples/perf-5.10.txt"), None));
}

#[test]
fn what_perf_script_prints_of_linux_6_8() {
    insta::assert_snapshot!(converted(include_str!("samples/perf-6.8.txt"), None));
}

#[test]
fn what_trace_cmd_report_prints_of_linux_6_1() {
    insta::assert_snapshot!(converted(include_str!("samples/trace-cmd-6.1.txt"), None));
}

#[test]
fn what_the_kernel_itself_prints_in_linux_5_4() {
    insta::assert_snapshot!(converted(include_str!("samples/tracefs-5.4.txt"), None));
}

#[test]
fn objects_and_pages_can_be_taken_alone() {
    let text = include_str!("samples/perf-5.10.txt");
    let letters = |only| -> String {
        let trace = Converted::of(text, Some(only)).trace;
        trace.events().iter().map(|event| event.action.letter()).collect()
    };
    assert_eq!(letters(Only::Objects), "aaaff");
    assert_eq!(letters(Only::Pages), "ppq");
}

#[test]
fn lines_without_a_cpu_are_counted_and_answered_with_what_to_record() {
    let text = "Xorg 1461  4666.621521: kmem:kmalloc: call_site=c0 ptr=0xffff9e0e8571e060 bytes_req=96 bytes_alloc=96 gfp_flags=GFP_NOFS";
    let Converted { trace, counts } = Converted::of(text, None);
    assert!(trace.events().is_empty());
    assert!(counts.advice().contains("`perf record -a`"), "{}", counts.advice());
    assert!(!Converted::of("hello\n", None).counts.advice().contains("`perf record -a`"));
}

#[test]
fn a_program_may_be_called_anything() {
    let line = " a [1] [b]: 2.5: x-7 [003] 10.000001: kfree: call_site=c0 ptr=ffff8880";
    let Kind::Event(line) = kind(line) else { panic!("the line is an event") };
    assert_eq!((line.cpu, line.nanoseconds, line.event), (3, 10_000_001_000, "kfree"));
    assert_eq!(line.address("ptr"), Some(0xffff_8880));
}

#[test]
fn what_is_in_a_trace() {
    let text = "quarry-trace 1
+7 a 0 0 64
+1000 a 0 1 100 - z
+500 p 1 2 1
+20000 f 1 0
+0 r 0 1 5000
+30000000 q 1 2
+1 a 3 3 8
";
    let trace = Trace::parse(text).expect("it is right");
    insta::assert_snapshot!(Info::of(&trace));
    insta::assert_snapshot!("what_is_in_an_empty_trace", Info::of(&Trace::default()));
}

/// A line as a tool prints it, more or less.
fn lines() -> impl Strategy<Value = String> {
    let event = prop_oneof![
        (0_u64..6, 0_u64..6000).prop_map(|(address, size)| format!(
            "kmalloc: call_site=f+0x1 ptr=0xffff{address:012x} bytes_req={size} bytes_alloc=64 gfp_flags=0xdc0"
        )),
        (0_u64..6).prop_map(|address| format!("kmem:kfree: call_site=f+0x1 ptr=0xffff{address:012x}")),
        (0_u64..6, 0..12).prop_map(|(frame, order)| format!(
            "mm_page_alloc: page=0x1 pfn={frame} order={order} gfp_flags=GFP_KERNEL"
        )),
        (0_u64..6, 0..12).prop_map(|(frame, order)| format!("mm_page_free: page=0x1 pfn={frame} order={order}")),
        "[ -~]{0,60}",
    ];
    (0_u16..9, 0_u64..9_999_999, event)
        .prop_map(|(cpu, time, event)| format!("it-1 [{cpu:03}] {}.{:06}: {event}", time / 1_000_000, time % 1_000_000))
}

proptest! {
    /// Whatever order frees, allocations and times come in, a whole trace comes out.
    #[test]
    fn any_recording_becomes_a_whole_trace(lines in proptest::collection::vec(lines(), 0..60)) {
        let text = lines.join("\n");
        let trace = Converted::of(&text, None).trace;
        prop_assert_eq!(Trace::parse(&trace.to_string()), Ok(trace.clone()));
        Info::of(&trace).to_string();
    }

    #[test]
    fn no_line_upsets_the_converter(text in "(.|\n){0,300}") {
        Converted::of(&text, None);
    }
}
