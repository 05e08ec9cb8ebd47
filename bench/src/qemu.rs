//! QEMU's command line: a [`Machine`] in its words.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::machine::{Board, Firmware, Layout, Machine, Node, Performance};
use crate::pin;
use crate::size::Size;

/// QEMU's name when no other is asked for.
pub(crate) const DEFAULT_QEMU: &str = "qemu-system-x86_64";

/// Everything a boot needs.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// The QEMU to run.
    pub(crate) qemu: PathBuf,
    /// The machine to simulate.
    pub(crate) machine: Machine,
    /// How.
    pub(crate) accelerator: Accelerator,
    /// The loader's file.
    pub(crate) loader: PathBuf,
    /// The image's file.
    pub(crate) image: PathBuf,
    /// Words for the guest.
    pub(crate) guest_words: Vec<String>,
    /// Whether each of its CPUs is bound to one of this computer's.
    pub(crate) pin: bool,
    /// More of QEMU's own arguments, as they are.
    pub(crate) more: Vec<String>,
}

impl Boot {
    /// QEMU's arguments, without its name.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments(Vec::new());
        self.machine_arguments(&mut arguments);
        match &self.machine.layout {
            Layout::Flat { memory, .. } => arguments.backend(0, *memory),
            Layout::Numa { nodes, distances, performance } => {
                for (id, node) in nodes.iter().enumerate() {
                    arguments.node(
                        id,
                        node,
                        &cpus_of(nodes, id),
                        performance.as_ref().map(|p| initiator(nodes, p, id)),
                    );
                }
                if let Some(distances) = distances {
                    arguments.distances(distances);
                }
                if let Some(performance) = performance {
                    arguments.performance(nodes, performance);
                }
            }
        }
        for table in &self.machine.acpi_tables {
            arguments.two("-acpitable", with_path("file=", table, ""));
        }
        for word in ["-nodefaults", "-no-reboot"] {
            arguments.one(word);
        }
        arguments.two("-display", "none");
        arguments.two("-serial", "stdio");
        arguments.two("-device", "isa-debug-exit,iobase=0xf4,iosize=4");
        arguments.two("-kernel", &self.loader);
        arguments.two("-initrd", &self.image);
        arguments.two("-append", self.guest_words.join(" "));
        if self.pin {
            let [option, value] = pin::QEMU_ARGUMENTS;
            arguments.two(option, value);
        }
        arguments.0.extend(self.more.iter().map(OsString::from));
        arguments.0
    }

    fn machine_arguments(&self, arguments: &mut Arguments) {
        let mut board = self.machine.board.name().to_owned();
        match &self.machine.layout {
            // What reserves no memory on the host has to be named as the machine's memory.
            Layout::Flat { .. } => board += ",memory-backend=mem0",
            Layout::Numa { performance: Some(_), .. } => board += ",hmat=on",
            Layout::Numa { .. } => {}
        }
        arguments.two("-M", board);
        if self.machine.board != Board::Microvm && self.machine.firmware == Firmware::Qboot {
            arguments.two("-bios", "qboot.rom");
        }
        // With migration out of the question, the host's invariant time-stamp counter is shown to the guest.
        let (cpu, accelerator) = match self.accelerator {
            Accelerator::Kvm => ("host,migratable=no", "kvm"),
            Accelerator::Tcg { icount: false } => ("max", "tcg,thread=multi"),
            Accelerator::Tcg { icount: true } | Accelerator::TcgInTurn => ("max", "tcg,thread=single"),
        };
        arguments.two("-cpu", cpu);
        arguments.two("-accel", accelerator);
        if self.accelerator == (Accelerator::Tcg { icount: true }) {
            arguments.two("-icount", "shift=0,sleep=off");
        }
        arguments.two("-m", self.machine.memory().to_string());
        arguments.two("-smp", self.machine.cpus().to_string());
    }

    /// Hands the guest a file, under that name.
    pub(crate) fn hand_over(&mut self, name: &str, file: &Path) {
        let value = with_path(&format!("name={name},file="), file, "");
        self.more.extend(["-fw_cfg".to_owned(), value.to_string_lossy().into_owned()]);
    }

    /// Gives the guest a disk: a raw file. Where the host cannot write it the guest is told, and goes on.
    pub(crate) fn attach_disk(&mut self, file: &Path) {
        let number = self.more.iter().filter(|word| *word == "-drive").count();
        let id = format!("disk{number}");
        let drive = with_path("file=", file, &format!(",format=raw,if=none,id={id},werror=report,rerror=report"));
        let words = ["-drive".to_owned(), drive.to_string_lossy().into_owned()];
        self.more.extend(words.into_iter().chain(["-device".to_owned(), format!("virtio-blk-pci,drive={id}")]));
    }

    /// The line as a person would give it to a shell.
    pub(crate) fn line(&self) -> String {
        let words = std::iter::once(self.qemu.clone().into_os_string()).chain(self.arguments());
        let quoted = words.map(|word| {
            let word = word.to_string_lossy().into_owned();
            shlex::try_quote(&word).map(std::borrow::Cow::into_owned).unwrap_or(word)
        });
        quoted.collect::<Vec<_>>().join(" ")
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn one(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn two(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.extend([option.into(), value.into()]);
    }

    /// Memory that takes nothing from the host until it is touched.
    fn backend(&mut self, id: usize, size: Size) {
        self.two("-object", format!("memory-backend-ram,id=mem{id},size={size},reserve=off"));
    }

    fn node(&mut self, id: usize, node: &Node, cpus: &Range<u32>, initiator: Option<usize>) {
        let mut words = vec![format!("node,nodeid={id}")];
        match cpus.len() {
            0 => {}
            1 => words.push(format!("cpus={}", cpus.start)),
            _ => words.push(format!("cpus={}-{}", cpus.start, cpus.end - 1)),
        }
        if node.memory.0 > 0 {
            self.backend(id, node.memory);
            words.push(format!("memdev=mem{id}"));
        }
        words.extend(initiator.map(|initiator| format!("initiator={initiator}")));
        self.two("-numa", words.join(","));
    }

    fn distances(&mut self, distances: &[Vec<u8>]) {
        for (from, row) in distances.iter().enumerate() {
            for (to, distance) in row.iter().enumerate().filter(|(to, _)| *to != from) {
                self.two("-numa", format!("dist,src={from},dst={to},val={distance}"));
            }
        }
    }

    fn performance(&mut self, nodes: &[Node], performance: &Performance) {
        // QEMU wants latencies before bandwidths.
        let latencies = ("access-latency", "latency", "", &performance.latency_ns);
        let bandwidths = ("access-bandwidth", "bandwidth", "M", &performance.bandwidth_mib);
        for (data_type, value_name, unit, matrix) in [latencies, bandwidths] {
            for (initiator, row) in with_cpus(nodes).zip(matrix) {
                for (target, value) in row.iter().enumerate() {
                    self.two(
                        "-numa",
                        format!(
                            "hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type={data_type},{value_name}={value}{unit}"
                        ),
                    );
                }
            }
        }
    }
}

/// A path inside an option with commas, where a comma of its own is written twice.
fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let mut value = OsString::from(before);
    value.push(path.to_string_lossy().replace(',', ",,"));
    value.push(after);
    value
}

/// QEMU's numbers of a node's CPUs: counted through all nodes.
fn cpus_of(nodes: &[Node], id: usize) -> Range<u32> {
    let first = nodes[..id].iter().map(|node| node.cpus).sum();
    first..first + nodes[id].cpus
}

fn with_cpus(nodes: &[Node]) -> impl Iterator<Item = usize> {
    nodes.iter().enumerate().filter(|(_, node)| node.cpus > 0).map(|(id, _)| id)
}

/// The node whose CPUs are nearest to a node's memory: its own, or those with the least latency.
fn initiator(nodes: &[Node], performance: &Performance, id: usize) -> usize {
    if nodes[id].cpus > 0 {
        return id;
    }
    let nearest = with_cpus(nodes).zip(&performance.latency_ns).min_by_key(|(_, row)| row[id]);
    nearest.expect("a machine has a CPU on one of its nodes").0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCG: Accelerator = Accelerator::Tcg { icount: false };

    /// The line, an option a line.
    fn line(machine: Machine, accelerator: Accelerator) -> String {
        let boot = Boot {
            qemu: DEFAULT_QEMU.into(),
            machine,
            accelerator,
            loader: "loader".into(),
            image: "an image".into(),
            guest_words: vec!["mode=run".into(), "seed=1".into()],
            pin: false,
            more: vec!["-s".into()],
        };
        boot.line().replace(" -", "\n-")
    }

    fn numa(nodes: &[(u64, u32)]) -> Machine {
        let nodes = nodes.iter().map(|(mib, cpus)| Node { memory: Size::mib(*mib), cpus: *cpus }).collect();
        Machine {
            board: Board::Q35,
            firmware: Firmware::Qboot,
            layout: Layout::Numa { nodes, distances: None, performance: None },
            acpi_tables: Vec::new(),
        }
    }

    #[test]
    fn two_even_nodes() {
        insta::assert_snapshot!(line(Machine::even(Board::Q35, 2, 4, Size::mib(2048)), TCG), @"
        qemu-system-x86_64
        -M q35
        -bios qboot.rom
        -cpu max
        -accel 'tcg,thread=multi'
        -m 2G
        -smp 4
        -object 'memory-backend-ram,id=mem0,size=1G,reserve=off'
        -numa 'node,nodeid=0,cpus=0-1,memdev=mem0'
        -object 'memory-backend-ram,id=mem1,size=1G,reserve=off'
        -numa 'node,nodeid=1,cpus=2-3,memdev=mem1'
        -numa 'dist,src=0,dst=1,val=20'
        -numa 'dist,src=1,dst=0,val=20'
        -nodefaults
        -no-reboot
        -display none
        -serial stdio
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        -kernel loader
        -initrd 'an image'
        -append 'mode=run seed=1'
        -s
        ");
    }

    #[test]
    fn a_memory_less_and_a_cpu_less_node() {
        insta::assert_snapshot!(line(numa(&[(512, 1), (0, 2), (512, 0)]), TCG), @"
        qemu-system-x86_64
        -M q35
        -bios qboot.rom
        -cpu max
        -accel 'tcg,thread=multi'
        -m 1G
        -smp 3
        -object 'memory-backend-ram,id=mem0,size=512M,reserve=off'
        -numa 'node,nodeid=0,cpus=0,memdev=mem0'
        -numa 'node,nodeid=1,cpus=1-2'
        -object 'memory-backend-ram,id=mem2,size=512M,reserve=off'
        -numa 'node,nodeid=2,memdev=mem2'
        -nodefaults
        -no-reboot
        -display none
        -serial stdio
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        -kernel loader
        -initrd 'an image'
        -append 'mode=run seed=1'
        -s
        ");
    }

    #[test]
    fn latencies_and_bandwidths() {
        let mut machine = numa(&[(512, 1), (512, 0), (512, 1)]);
        let Layout::Numa { performance, .. } = &mut machine.layout else { unreachable!("made so above") };
        *performance = Some(Performance {
            latency_ns: vec![vec![10, 60, 20], vec![20, 50, 10]],
            bandwidth_mib: vec![vec![9000, 1000, 4000], vec![4000, 1000, 9000]],
        });
        insta::assert_snapshot!(line(machine, TCG), @"
        qemu-system-x86_64
        -M 'q35,hmat=on'
        -bios qboot.rom
        -cpu max
        -accel 'tcg,thread=multi'
        -m 1536M
        -smp 2
        -object 'memory-backend-ram,id=mem0,size=512M,reserve=off'
        -numa 'node,nodeid=0,cpus=0,memdev=mem0,initiator=0'
        -object 'memory-backend-ram,id=mem1,size=512M,reserve=off'
        -numa 'node,nodeid=1,memdev=mem1,initiator=2'
        -object 'memory-backend-ram,id=mem2,size=512M,reserve=off'
        -numa 'node,nodeid=2,cpus=1,memdev=mem2,initiator=2'
        -numa 'hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=10'
        -numa 'hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=60'
        -numa 'hmat-lb,initiator=0,target=2,hierarchy=memory,data-type=access-latency,latency=20'
        -numa 'hmat-lb,initiator=2,target=0,hierarchy=memory,data-type=access-latency,latency=20'
        -numa 'hmat-lb,initiator=2,target=1,hierarchy=memory,data-type=access-latency,latency=50'
        -numa 'hmat-lb,initiator=2,target=2,hierarchy=memory,data-type=access-latency,latency=10'
        -numa 'hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=9000M'
        -numa 'hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=1000M'
        -numa 'hmat-lb,initiator=0,target=2,hierarchy=memory,data-type=access-bandwidth,bandwidth=4000M'
        -numa 'hmat-lb,initiator=2,target=0,hierarchy=memory,data-type=access-bandwidth,bandwidth=4000M'
        -numa 'hmat-lb,initiator=2,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=1000M'
        -numa 'hmat-lb,initiator=2,target=2,hierarchy=memory,data-type=access-bandwidth,bandwidth=9000M'
        -nodefaults
        -no-reboot
        -display none
        -serial stdio
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        -kernel loader
        -initrd 'an image'
        -append 'mode=run seed=1'
        -s
        ");
    }

    #[test]
    fn no_nodes_and_a_table_of_its_own() {
        let machine = Machine {
            board: Board::Pc,
            firmware: Firmware::Seabios,
            layout: Layout::Flat { memory: Size::mib(512), cpus: 2 },
            acpi_tables: vec!["a,b.bin".into()],
        };
        insta::assert_snapshot!(line(machine, TCG), @"
        qemu-system-x86_64
        -M 'pc,memory-backend=mem0'
        -cpu max
        -accel 'tcg,thread=multi'
        -m 512M
        -smp 2
        -object 'memory-backend-ram,id=mem0,size=512M,reserve=off'
        -acpitable 'file=a,,b.bin'
        -nodefaults
        -no-reboot
        -display none
        -serial stdio
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        -kernel loader
        -initrd 'an image'
        -append 'mode=run seed=1'
        -s
        ");
    }

    #[test]
    fn files_to_hand_over_and_disks_may_have_commas_in_their_names() {
        let mut boot = Boot {
            qemu: DEFAULT_QEMU.into(),
            machine: Machine::even(Board::Q35, 1, 1, Size::mib(512)),
            accelerator: TCG,
            loader: "loader".into(),
            image: "image".into(),
            guest_words: Vec::new(),
            pin: false,
            more: Vec::new(),
        };
        boot.hand_over("opt/quarry/trace", Path::new("a,b.trace"));
        let line = boot.line();
        assert!(line.ends_with(" -fw_cfg 'name=opt/quarry/trace,file=a,,b.trace'"), "{line}");
        boot.attach_disk(Path::new("a,b.img"));
        boot.attach_disk(Path::new("c.img"));
        let line = boot.line();
        let (_, disks) = line.split_once(" -drive ").expect("there are disks");
        assert_eq!(
            disks,
            "'file=a,,b.img,format=raw,if=none,id=disk0,werror=report,rerror=report' -device 'virtio-blk-pci,drive=disk0' \
             -drive 'file=c.img,format=raw,if=none,id=disk1,werror=report,rerror=report' -device 'virtio-blk-pci,drive=disk1'"
        );
    }

    #[test]
    fn a_microvm_under_kvm() {
        insta::assert_snapshot!(line(Machine::even(Board::Microvm, 1, 2, Size::mib(512)), Accelerator::Kvm), @"
        qemu-system-x86_64
        -M 'microvm,memory-backend=mem0'
        -cpu 'host,migratable=no'
        -accel kvm
        -m 512M
        -smp 2
        -object 'memory-backend-ram,id=mem0,size=512M,reserve=off'
        -nodefaults
        -no-reboot
        -display none
        -serial stdio
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        -kernel loader
        -initrd 'an image'
        -append 'mode=run seed=1'
        -s
        ");
    }

    #[test]
    fn counted_instructions() {
        let machine = Machine::even(Board::Q35, 1, 1, Size::mib(512));
        insta::assert_snapshot!(line(machine, Accelerator::Tcg { icount: true }), @"
        qemu-system-x86_64
        -M q35
        -bios qboot.rom
        -cpu max
        -accel 'tcg,thread=single'
        -icount 'shift=0,sleep=off'
        -m 512M
        -smp 1
        -object 'memory-backend-ram,id=mem0,size=512M,reserve=off'
        -numa 'node,nodeid=0,cpus=0,memdev=mem0'
        -nodefaults
        -no-reboot
        -display none
        -serial stdio
        -device 'isa-debug-exit,iobase=0xf4,iosize=4'
        -kernel loader
        -initrd 'an image'
        -append 'mode=run seed=1'
        -s
        ");
    }
}
