//! [`Archive`]: a cpio archive in the `newc` format, which is what Linux unpacks its initramfs from
//! (Documentation/driver-api/early-userspace/buffer-format.rst of its source).

/// What begins every entry.
const MAGIC: &str = "070701";

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

// The kinds of file in a mode.
const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// A cpio archive that grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A folder. Comes before what is in it.
    pub(crate) fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER | 0o755, (0, 0), &[]);
    }

    /// A character device.
    pub(crate) fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// A file that can be executed, and read.
    ///
    /// # Panics
    ///
    /// When it is of 4 GiB or more, which the format cannot say.
    pub(crate) fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, REGULAR | 0o755, (0, 0), contents);
    }

    /// The archive, whole.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(contents.len()).expect("nothing of 4 GiB goes into an initramfs");
        let name_length = name.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, length, device of the file (two), device it stands for (two), length
        // of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, major, minor, name_length, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        contents: Vec<u8>,
    }

    /// Reads an archive as the kernel does: every length from the entry's head.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], MAGIC.as_bytes());
            let field = |at: usize| {
                let digits = std::str::from_utf8(&bytes[6 + 8 * at..14 + 8 * at]).expect("they are digits");
                u32::from_str_radix(digits, 16).expect("they are hexadecimal")
            };
            let (length, name_length) = (field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_length - 1]).expect("names are text").to_owned();
            assert_eq!(bytes[110 + name_length - 1], 0);
            let start = (110 + name_length).next_multiple_of(4);
            let contents = bytes[start..start + length].to_vec();
            let (mode, device) = (field(1), (field(9), field(10)));
            bytes = &bytes[(start + length).next_multiple_of(4)..];
            if name == TRAILER {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push(Entry { name, mode, device, contents });
        }
    }

    #[test]
    fn an_entry_is_to_the_byte_what_cpio_writes() {
        let mut archive = Archive::default();
        archive.file("init", b"hello");
        let bytes = archive.finish();
        let head = "07070100000001000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
                    0000000500000000init\0";
        assert_eq!(std::str::from_utf8(&bytes[..115]), Ok(head));
        // 115 and one byte of padding; five bytes and three of padding.
        assert_eq!(&bytes[115..124], b"\0hello\0\0\0");
        assert_eq!(&bytes[124..130], MAGIC.as_bytes());
    }

    #[test]
    fn folders_and_devices_are_what_they_are() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/console", 5, 1);
        let entry = |name: &str, mode, device| Entry { name: name.into(), mode, device, contents: Vec::new() };
        let expected = [entry("dev", 0o040_755, (0, 0)), entry("dev/console", 0o020_600, (5, 1))];
        assert_eq!(read(&archive.finish()), expected);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(files in proptest::collection::vec(("[a-z/.]{1,40}", any::<Vec<u8>>()), 0..8)) {
            let mut archive = Archive::default();
            for (name, contents) in &files {
                archive.file(name, contents);
            }
            let read: Vec<_> = read(&archive.finish()).into_iter().map(|entry| (entry.name, entry.contents)).collect();
            prop_assert_eq!(read, files);
        }
    }
}
