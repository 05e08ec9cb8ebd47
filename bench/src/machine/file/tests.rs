//! Topology files that are right, and the sentences for those that are wrong.

use super::*;

fn accept(text: &str) -> MachineFile {
    parse(text, Path::new("/nowhere")).unwrap_or_else(|wrong| panic!("{}", wrong.problem))
}

/// Line and sentence.
fn refuse(text: &str) -> String {
    let folder = tempfile::tempdir().expect("there is room for a file");
    let path = folder.path().join("machine.toml");
    fs::write(&path, text).expect("there is room for a file");
    let complaint = read(&path).expect_err("the file is wrong").to_string();
    complaint.split_once("machine.toml, ").expect("the file is named").1.to_owned()
}

#[test]
fn a_whole_file_is_read() {
    let file = accept(
        r#"
        machine = "pc"
        firmware = "seabios"
        distances = [[10, 21, 31], [21, 10, 41], [31, 41, 10]]

        [[nodes]]
        memory = "1G"
        cpus = 2

        [[nodes]]
        cpus = 1

        [[nodes]]
        memory = "512M"

        [hmat]
        latency-ns = [[10, 20, 30], [20, 10, 30]]

        [expect]
        nodes = [{ memory = "1536M", cpus = 3 }]
        warnings = 2
        "#,
    );
    let node = |mib, cpus| Node { memory: Size::mib(mib), cpus };
    let machine = Machine {
        board: Board::Pc,
        firmware: Firmware::Seabios,
        layout: Layout::Numa {
            nodes: vec![node(1024, 2), node(0, 1), node(512, 0)],
            distances: Some(vec![vec![10, 21, 31], vec![21, 10, 41], vec![31, 41, 10]]),
            performance: Some(Performance {
                latency_ns: vec![vec![10, 20, 30], vec![20, 10, 30]],
                bandwidth_mib: Vec::new(),
            }),
        },
        acpi_tables: Vec::new(),
    };
    let expect = Expect { nodes: Some(vec![node(1536, 3)]), warnings: Some(2), ..Expect::default() };
    assert_eq!(file, MachineFile { machine, expect });
}

#[test]
fn a_machine_without_nodes_is_read() {
    let file = accept("machine = \"microvm\"\nmemory = \"512M\"\ncpus = 2\n");
    assert_eq!(file.machine.layout, Layout::Flat { memory: Size::mib(512), cpus: 2 });
    assert_eq!((file.machine.board, file.expect), (Board::Microvm, Expect::default()));
}

#[test]
fn mistakes_of_form_name_their_line() {
    let complaints = [
        "machine = \"q35\nmemory = 1",
        "machine = \"q36\"",
        "# a machine\n\n[[nodes]]\nmemory = \"1G\"\ncores = 2",
        "[[nodes]]\nmemory = \"1.5G\"\ncpus = 1",
        "[[nodes]]\nmemory = \"1G\"\ncpus = \"two\"",
        "cpus = -1\nmemory = \"1G\"",
    ];
    insta::assert_snapshot!(complaints.map(refuse).join("\n"), @r#"
    line 1: invalid basic string, expected `"`
    line 1: unknown variant `q36`, expected one of `q35`, `pc`, `microvm`
    line 5: unknown field `cores`, expected `memory` or `cpus`
    line 2: `1.5G` is no amount of memory; write a whole number with K, M, G or T behind it, as in 512M
    line 3: invalid type: string "two", expected u32
    line 1: invalid value: integer `-1`, expected u32
    "#);
}

#[test]
fn mistakes_of_meaning_name_their_line() {
    let complaints = [
        "",
        "memory = \"1G\"",
        "memory = \"1G\"\ncpus = 0",
        "memory = \"1023K\"\ncpus = 1",
        "cpus = 1\nmemory = \"0\"",
        "machine = \"microvm\"\nfirmware = \"qboot\"\nmemory = \"1G\"\ncpus = 1",
        "machine = \"microvm\"\n[[nodes]]\nmemory = \"1G\"\ncpus = 1",
        "memory = \"1G\"\n[[nodes]]\nmemory = \"1G\"\ncpus = 1",
        "cpus = 1\n[[nodes]]\nmemory = \"1G\"\ncpus = 1",
        "[[nodes]]\nmemory = \"1G\"\n\n[[nodes]]\nmemory = \"1G\"\n",
        "[[nodes]]\ncpus = 1\n",
        "[[nodes]]\nmemory = \"1G\"\ncpus = 1\n\n[[nodes]]\n",
        "memory = \"1G\"\ncpus = 1\ndistances = [[10]]",
        "memory = \"1G\"\ncpus = 1\nacpi-tables = [\"nothing.bin\"]",
    ];
    let complaints = complaints.map(|text| {
        let complaint = refuse(text);
        // The folder is another one every time.
        complaint.split_once(" /").map_or(complaint.clone(), |(before, _)| before.to_owned())
    });
    insta::assert_snapshot!(complaints.join("\n"), @"
    line 1: describe [[nodes]], or `memory` and `cpus` of a machine without
    line 1: describe [[nodes]], or `memory` and `cpus` of a machine without
    line 2: a machine needs a CPU
    line 1: memory of 1023K is not in whole MiB
    line 2: a machine needs memory
    line 2: a microvm brings its own firmware; leave this out
    line 2: a microvm has no NUMA nodes; give `memory` and `cpus` of the machine instead
    line 1: memory belongs to the [[nodes]]
    line 1: CPUs belong to the [[nodes]]
    line 1: a machine needs a CPU on one of its nodes
    line 1: a machine needs memory on one of its nodes
    line 5: a node needs memory, CPUs or both
    line 3: distances are between nodes, and there are no [[nodes]]
    line 3: there is no file
    ");
}

#[test]
fn matrices_that_do_not_fit_name_their_line() {
    let two_nodes = "[[nodes]]\nmemory = \"1G\"\ncpus = 1\n[[nodes]]\nmemory = \"1G\"\n";
    let complaints = [
        format!("distances = [[10, 20]]\n{two_nodes}"),
        format!("distances = [[10, 20], [20]]\n{two_nodes}"),
        format!("distances = [[10, 20], [20, 11]]\n{two_nodes}"),
        format!("distances = [[10, 9], [20, 10]]\n{two_nodes}"),
        format!("distances = [[10, 256], [20, 10]]\n{two_nodes}"),
        format!("{two_nodes}[hmat]\nlatency-ns = [[10, 20], [20, 10]]"),
        format!("{two_nodes}[hmat]\nlatency-ns = [[10, 20]]\nbandwidth-mib = [[0, 1]]"),
    ];
    insta::assert_snapshot!(complaints.map(|text| refuse(&text)).join("\n"), @"
    line 1: there are 1 rows, but a row for each node makes 2
    line 1: row 1 has 1 columns, but there are 2 nodes
    line 1: node 1 is 10 from itself, not 11
    line 1: the distance from node 0 to node 1 is 9; the least is 10
    line 1: invalid value: integer `256`, expected u8
    line 7: there are 2 rows, but a row for each node with CPUs makes 1
    line 8: latencies and bandwidths are at least 1
    ");
}
