//! Link arguments for Quarry images. The whole build.rs of an image is
//! `fn main() { quarry_build_helper::link_image(); }`.
//!
//! Used by every image, inside and outside Quarry's workspace; the loader reads what comes out of it. An image is a
//! static position-independent ELF whose only relocations are `R_X86_64_RELATIVE`, linked at the address the loader
//! maps it at, so that `gdb image` and `addr2line -e image` understand the guest's addresses as they are. It is built
//! for the host's own `x86_64-unknown-linux-gnu` by the stable toolchain, without `RUSTFLAGS` and without a target
//! specification.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The linker script of every image: a segment per permission, each on pages of its own.
const SCRIPT: &str = include_str!("image.ld");

/// The only target images are built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Tells cargo to link this package's binaries as Quarry images. To be called from the image's build.rs, once.
///
/// Writes the linker script to `OUT_DIR` and prints `cargo::rustc-link-arg-bins` lines; it touches nothing else, so an
/// image may print further instructions of its own.
///
/// # Panics
///
/// Outside a build script, when the target is not `x86_64-unknown-linux-gnu`, and when `OUT_DIR` cannot be written:
/// cargo shows the message and stops the build.
pub fn link_image() {
    let target = build_variable("TARGET");
    assert!(target == TARGET, "Quarry images are built for {TARGET}, not for {target}: build with `--target {TARGET}`");
    let script = PathBuf::from(build_variable("OUT_DIR")).join("quarry-image.ld");
    fs::write(&script, SCRIPT)
        .unwrap_or_else(|error| panic!("cannot write the linker script {}: {error}", script.display()));
    for argument in link_arguments(&script) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

/// The arguments for `cc`, in order.
fn link_arguments(script: &Path) -> Vec<String> {
    [
        // No C runtime and no library: the unikernel brings everything.
        "-nostartfiles",
        "-nostdlib",
        "-static-pie",
        // Images are identified by their git revision, not by a note that changes with every build path.
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        // The script places relocated constants in a read-only segment: the loader relocates before it maps.
        "-Wl,-z,norelro",
    ]
    .into_iter()
    .map(String::from)
    .chain([format!("-Wl,-T,{}", script.display())])
    .collect()
}

/// A variable cargo sets for build scripts.
fn build_variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: call link_image() from a build.rs"))
}

#[cfg(test)]
mod tests;
