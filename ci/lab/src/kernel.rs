// SPDX-License-Identifier: GPL-3.0-only
//! The ELF file inside a bzImage, so that neither Xen nor a guest has to unpack it in emulation.
//!
//! Only what the program headers name is kept: without sections and without the zeroes
//! at the end of segments; every byte would be copied several times in emulation.
//!
//! Debian packs its kernels with xz, later ones with zstd, whose programs unpack them; another packing is refused.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's kernel folder, as unpacked from its package: boot/vmlinuz-VERSION and lib/modules/VERSION.
#[derive(Clone, Debug)]
pub struct KernelPackage {
    /// The bzImage.
    pub image: PathBuf,
    /// lib/modules/VERSION.
    pub modules: PathBuf,
    /// As in `uname -r`.
    pub version: String,
}

impl KernelPackage {
    /// Finds the one kernel in `folder`.
    pub fn open(folder: &Path) -> Result<KernelPackage> {
        let boot = folder.join("boot");
        let names = std::fs::read_dir(&boot).with_context(|| format!("list {}", boot.display()))?;
        let mut versions: Vec<String> = names
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
            .collect();
        versions.sort();
        let [version] = &versions[..] else {
            bail!(
                "find kernel in {}: {} files named vmlinuz-*, one is needed",
                boot.display(),
                versions.len()
            );
        };
        let modules =
            [folder.join("lib/modules").join(version), folder.join("usr/lib/modules").join(version)]
                .into_iter()
                .find(|path| path.is_dir())
                .with_context(|| {
                    format!("find modules of {version} in {}: no such folder", folder.display())
                })?;
        Ok(KernelPackage {
            image: boot.join(format!("vmlinuz-{version}")),
            modules,
            version: version.clone(),
        })
    }
}

/// The vmlinux ELF inside `image`, a bzImage.
pub fn vmlinux(image: &Path) -> Result<Vec<u8>> {
    let data = std::fs::read(image).with_context(|| format!("read kernel {}", image.display()))?;
    unpack(&data).and_then(|elf| loadable(&elf)).with_context(|| format!("unpack kernel {}", image.display()))
}

/// The same ELF with its headers and segments only: no sections, no relocations.
fn loadable(elf: &[u8]) -> Result<Vec<u8>> {
    let (at, size, count) = (long(elf, 0x20)?, half(elf, 0x36)?, half(elf, 0x38)?);
    let mut end = at + size * count;
    let mut out = elf.get(..end).context("program headers lie beyond the end")?.to_vec();
    for index in 0..count {
        let header = at + index * size;
        let (offset, length) = (long(elf, header + 8)?, long(elf, header + 0x20)?);
        let segment = elf.get(offset..offset + length).context("a segment lies beyond the end")?;
        // What a file ends short of its memory size is zero: most of Debian's last segment is a written-out .bss.
        let length = segment.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        end = end.max(offset + length);
        out.resize(out.len().max(end), 0);
        out[offset..offset + length].copy_from_slice(&segment[..length]);
        out[header + 0x20..header + 0x28].copy_from_slice(&(length as u64).to_le_bytes());
    }
    // No section headers: their offset, count and the index of their names.
    out[0x28..0x30].fill(0);
    out[0x3c..0x40].fill(0);
    Ok(out)
}

fn long(data: &[u8], at: usize) -> Result<usize> {
    let bytes = data.get(at..at + 8).context("truncated ELF header")?;
    Ok(bytes.iter().rev().fold(0usize, |value, byte| value << 8 | usize::from(*byte)))
}

fn half(data: &[u8], at: usize) -> Result<usize> {
    let bytes = data.get(at..at + 2).context("truncated ELF header")?;
    Ok(usize::from(bytes[1]) << 8 | usize::from(bytes[0]))
}

fn unpack(data: &[u8]) -> Result<Vec<u8>> {
    ensure!(data.get(0x202..0x206) == Some(b"HdrS"), "no Linux boot header: not a bzImage");
    let setup_sectors = match data.get(0x1f1) {
        Some(0) | None => 4,
        Some(count) => usize::from(*count),
    };
    let start = (setup_sectors + 1) * 512 + word(data, 0x248)?;
    let payload =
        data.get(start..start + word(data, 0x24c)?).context("payload lies beyond the end: truncated")?;
    let program = if payload.starts_with(b"\xfd7zXZ\0") {
        "xz"
    } else if payload.starts_with(b"\x28\xb5\x2f\xfd") {
        "zstd"
    } else {
        bail!("payload is packed neither with xz nor with zstd, as Debian's kernels are");
    };
    // The last four bytes are the unpacked size, appended by the kernel's build.
    let packed = &payload[..payload.len() - 4];
    let mut file = tempfile::tempfile().context("temporary file")?;
    file.write_all(packed).and_then(|()| file.rewind()).context("temporary file")?;
    let unpacked = Command::new(program).arg("-dc").stdin(file).output();
    let unpacked = unpacked.with_context(|| format!("run {program} (`ci/setup` installs it)"))?;
    let said = String::from_utf8_lossy(&unpacked.stderr);
    ensure!(unpacked.status.success(), "{program}: {}: {}", unpacked.status, said.trim());
    ensure!(unpacked.stdout.starts_with(b"\x7fELF"), "payload is not ELF");
    Ok(unpacked.stdout)
}

fn word(data: &[u8], at: usize) -> Result<usize> {
    let bytes = data.get(at..at + 4).context("truncated header")?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

#[cfg(test)]
mod tests {
    #[test]
    fn other_files_are_refused() {
        for data in [&b""[..], b"\x7fELF and so on", &[0u8; 4096]] {
            assert!(super::unpack(data).is_err());
        }
    }
}
