// SPDX-License-Identifier: GPL-3.0-only
//! Writes cpio archives in the `newc` form that Linux unpacks as initramfs.
//!
//! Equal content gives equal bytes: entries are sorted by path, parents are added, times, owners
//! and inode numbers do not depend on the host. Archives may be concatenated: later files win.

use std::collections::BTreeMap;

enum Entry {
    Directory,
    File { data: Vec<u8>, mode: u32 },
    Link { target: String },
}

/// An archive under construction. Paths are relative to the root, without a leading slash.
#[derive(Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a directory and its parents.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.parents(path);
        self.entries.entry(path.to_owned()).or_insert(Entry::Directory);
        self
    }

    /// Adds a file of `mode` (permission bits), replacing what was there.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::File { data: data.into(), mode });
        self
    }

    /// Adds a symbolic link, replacing what was there.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
        self
    }

    fn parents(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end);
        for end in ends {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory);
        }
    }

    /// The archive's bytes, padded to a multiple of 512.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, data): (u32, &[u8]) = match entry {
                Entry::Directory => (0o040_755, &[]),
                Entry::File { data, mode } => (0o100_000 | mode, data),
                Entry::Link { target } => (0o120_777, target.as_bytes()),
            };
            record(&mut out, index as u32 + 1, mode, path, data);
        }
        record(&mut out, 0, 0, "TRAILER!!!", &[]);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn record(out: &mut Vec<u8>, inode: u32, mode: u32, path: &str, data: &[u8]) {
    let size = data.len() as u32;
    let name_size = path.len() as u32 + 1;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_insertion_does_not_change_a_byte() {
        let (mut one, mut two) = (Archive::default(), Archive::default());
        one.file("bin/a", "A", 0o755).link("lib/x", "y").directory("proc");
        two.directory("proc").link("lib/x", "y").file("bin/a", "A", 0o755);
        assert_eq!(one.bytes(), two.bytes());
    }

    #[test]
    fn busybox_cpio_reads_it_back() {
        let mut archive = Archive::default();
        archive.file("etc/deep/file", "hello", 0o600).link("bin/sh", "busybox");
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("busybox")
            .args(["cpio", "-idm"])
            .current_dir(folder.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &archive.bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("etc/deep/file")).unwrap(), b"hello");
        assert_eq!(std::fs::read_link(folder.path().join("bin/sh")).unwrap().to_str(), Some("busybox"));
    }
}
