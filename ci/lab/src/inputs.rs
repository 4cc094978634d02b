// SPDX-License-Identifier: GPL-3.0-only
//! What a lab needs from outside, by explicit path. The lab searches nothing: its caller knows.

use crate::kernel::KernelPackage;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Paths of everything that was built or fetched before.
#[derive(Clone, Debug)]
pub struct LabInputs {
    /// The hypervisor as ELF (`xen/xen`, not `xen.gz`), lab patches applied.
    pub hypervisor: PathBuf,
    /// The built tools tree of the same source: holds `tools/xl/xl`, `tools/libs/*`, ...
    pub xen_tree: PathBuf,
    /// Debian's linux-image package, unpacked: holds `boot/vmlinuz-*` and `lib/modules/*`.
    pub kernel_dir: PathBuf,
    /// The static guest program (package `microslice-guest`).
    pub guest: PathBuf,
    /// The `microslice` command for dom0; rows with the microslice scheduler need it.
    pub microslice: Option<PathBuf>,
    /// The toolstack's Debian package; its own test needs it.
    pub package: Option<PathBuf>,
    /// The bzImage of another release for a guest; the toolstack's own test needs it.
    pub newer_kernel: Option<PathBuf>,
    /// GRUB for PVH guests, unpacked: holds `usr/bin/grub-mkimage`; the test of moved kernels needs it.
    pub grub: Option<PathBuf>,
    /// Where images are kept, e.g. `$XDG_CACHE_HOME/microslice`.
    pub cache: PathBuf,
    /// QEMU 10 or newer.
    pub qemu: PathBuf,
}

impl LabInputs {
    /// Checks that every path is there; says what is missing and what makes it.
    pub fn check(&self) -> Result<()> {
        let files =
            [(&self.hypervisor, "hypervisor (ELF)"), (&self.guest, "guest program"), (&self.qemu, "QEMU")];
        for (path, what) in files
            .into_iter()
            .chain(self.microslice.iter().map(|path| (path, "microslice command")))
            .chain(self.package.iter().map(|path| (path, "toolstack's package")))
            .chain(self.newer_kernel.iter().map(|path| (path, "newer kernel")))
        {
            ensure!(path.is_file(), "lab inputs: {what}: {} is not a file", path.display());
        }
        ensure!(
            self.xen_tree.join("tools").is_dir(),
            "lab inputs: Xen tree: {} has no tools/",
            self.xen_tree.display()
        );
        self.kernel().map(|_| ())
    }

    /// The kernel package.
    pub fn kernel(&self) -> Result<KernelPackage> {
        KernelPackage::open(&self.kernel_dir)
    }
}

/// SHA-256 of a file, hex.
pub fn file_hash(path: &Path) -> Result<String> {
    let data = std::fs::read(path).with_context(|| format!("hash {}", path.display()))?;
    Ok(hash(&[&data]))
}

/// SHA-256 over parts and their lengths, hex.
pub fn hash(parts: &[&[u8]]) -> String {
    let mut state = Sha256::new();
    for part in parts {
        state.update((part.len() as u64).to_le_bytes());
        state.update(part);
    }
    state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
