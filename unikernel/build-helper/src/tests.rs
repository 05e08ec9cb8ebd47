//! Links a small image as an image's build would, and lets the loader's own checks judge it.

use std::path::{Path, PathBuf};
use std::process::Command;

use quarry_loader::IMAGE_BASE;
use quarry_loader::elf::Image;
use quarry_loader::page_tables::Access;

use super::*;

/// Code, a constant with an address in it, data, bss, and an address in data.
const SOURCE: &str = r#"
    .section .text.quarry_start, "ax"
    .global quarry_start
    quarry_start:
    lea constant(%rip), %rax
    lea pointer(%rip), %rax
    lea zeroes(%rip), %rax
    ret
    .section .data.rel.ro, "aw"
    constant: .quad quarry_start
    .section .data, "aw"
    pointer: .quad pointer
    .section .bss, "aw", @nobits
    zeroes: .skip 10000
    .section .note.GNU-stack, "", @progbits
"#;

/// A directory of its own for a test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("quarry-build-helper-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed from the temporary directory is not this test's concern.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Assembles and links `source`; on failure, what the linker said.
fn link(source: &str, directory: &Path) -> Result<Vec<u8>, String> {
    let (assembly, script, output) = (directory.join("image.s"), directory.join("image.ld"), directory.join("image"));
    fs::write(&assembly, source).expect("the directory is writable");
    fs::write(&script, SCRIPT).expect("the directory is writable");
    let result = Command::new("cc")
        .args(["-Wl,--gc-sections", "-Wl,--eh-frame-hdr"])
        .args(link_arguments(&script))
        .arg("-o")
        .arg(&output)
        .arg(&assembly)
        .output()
        .expect("cc is there, for rustc links with it");
    if result.status.success() {
        Ok(fs::read(&output).expect("the linker wrote its output"))
    } else {
        Err(String::from_utf8_lossy(&result.stderr).into_owned())
    }
}

#[test]
fn a_linked_image_is_what_the_loader_wants() {
    let directory = Directory::new("good");
    let file = link(SOURCE, &directory.0).expect("the source is right");
    let image = Image::parse(&file).expect("the loader takes it");

    let access: Vec<_> = image.segments().iter().map(|segment| segment.access).collect();
    assert_eq!(access, [Access::ReadExecute, Access::Read, Access::ReadWrite]);

    let mut memory = vec![0xee; image.size() as usize];
    let place = IMAGE_BASE;
    assert_eq!(image.load(&mut memory, place), Ok(place), "quarry_start comes first");
    let constants = &memory[image.segments()[1].pages().start as usize..image.segments()[1].pages().end as usize];
    let addresses = constants.windows(8).filter(|bytes| *bytes == place.to_le_bytes()).count();
    assert_eq!(addresses, 2, "the entry's address stands in the relocation and in the constant");
    let data = image.segments()[2].pages();
    let pointer = &memory[data.start as usize..][..8];
    assert_eq!(pointer, (place + data.start).to_le_bytes(), "the pointer points to itself");
    assert!(data.size() > 10_000, "bss takes memory");
    let symbols = |name: &str| file.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    assert!(symbols("quarry_start") && symbols("__text_end"), "symbols stay in the file for backtraces");
}

#[test]
fn an_image_without_entry_point_is_told_what_it_lacks() {
    let directory = Directory::new("no-entry");
    let message = link(&SOURCE.replace("quarry_start", "other_start"), &directory.0).unwrap_err();
    assert!(message.contains("quarry_unikernel::main!"), "{message}");
}
