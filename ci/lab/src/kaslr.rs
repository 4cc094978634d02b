// SPDX-License-Identifier: GPL-3.0-only
//! Guests whose kernel moves itself: GRUB for PVH starts Debian's bzImage, as it is, inside the guest, so that the kernel's
//! own decompressor chooses where it runs. What the guest's /proc/kallsyms says is held against the image and against
//! the ranges that Xen has.

use crate::cpio::Archive;
use crate::images::{self, Images};
use crate::inputs::LabInputs;
use crate::serial::Transcript;
use anyhow::{Context, Result, bail, ensure};
use microslice_symtab::{Catalog, KernelImage, Ranges};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// GRUB's embedded configuration.
const GRUB_CFG: &str = "linux (memdisk)/vmlinuz console=hvc0 quiet loglevel=1 panic=0 clocksource=xen\n\
                        initrd (memdisk)/initrd\nboot\n";
const MODULES: [&str; 3] = ["memdisk", "newc", "linux"];

/// The kernel of these guests.
pub struct Kernel {
    bzimage: PathBuf,
    image: KernelImage,
    ranges: Ranges,
}

impl Kernel {
    /// `other`, a bzImage, or the lab's own.
    pub fn open(inputs: &LabInputs, images: &Images, other: Option<&Path>) -> Result<Kernel> {
        // The lab's is unpacked already.
        let image = KernelImage::open(other.unwrap_or(&images.vmlinux))?;
        let bzimage = match other {
            Some(path) => path.to_owned(),
            None => inputs.kernel()?.image,
        };
        let ranges = image.ranges(&Catalog::builtin());
        Ok(Kernel { bzimage, image, ranges })
    }

    /// What dom0 needs besides its image: the kernel, and GRUB with the kernel in it.
    pub fn files(&self, inputs: &LabInputs) -> Result<Archive> {
        let mut archive = Archive::default();
        archive.file("boot/vmlinuz", images::read(&self.bzimage)?, 0o644);
        archive.file("job/grub.bin", grub(inputs, &self.bzimage, &self.ranges)?, 0o644);
        Ok(archive)
    }

    /// Every boot's slide is the one that its own /proc/kallsyms shows, its text symbols are the image's to the byte, and
    /// Xen has the ranges of the image at that slide. Returns the slides.
    pub fn judge(&self, transcript: &Transcript, boots: usize) -> Result<Vec<u64>> {
        let one =
            |boot| one(transcript, &self.image, &self.ranges, boot).with_context(|| format!("boot {boot}"));
        let slides: Vec<u64> = (1..=boots).map(one).collect::<Result<_>>()?;
        let different: BTreeSet<u64> = slides.iter().copied().filter(|&slide| slide != 0).collect();
        ensure!(different.len() >= 2, "no two boots have different slides other than 0: {slides:#x?}");
        Ok(slides)
    }
}

/// GRUB as an ELF file that xl starts as a kernel, with `image` and an initramfs inside.
fn grub(inputs: &LabInputs, image: &Path, ranges: &Ranges) -> Result<Vec<u8>> {
    let folder = inputs.grub.as_ref().context("kaslr: GRUB is needed")?;
    let names = ranges.iter().flat_map(|range| &range.names).map(String::as_str);
    let names: Vec<&str> = names.chain([ANCHOR]).collect();
    let mut initrd = Archive::default();
    initrd.file("init", images::stripped(&inputs.guest.with_file_name("kallsyms"))?, 0o755);
    initrd.file("names", names.join("\n"), 0o644).directory("proc").directory("dev");
    let mut disk = Archive::default();
    disk.file("vmlinuz", images::read(image)?, 0o644).file("initrd", initrd.bytes(), 0o644);
    let work = tempfile::tempdir().context("kaslr: temporary folder")?;
    let write = |name: &str, data: &[u8]| {
        let path = work.path().join(name);
        std::fs::write(&path, data).with_context(|| format!("write {}", path.display())).map(|()| path)
    };
    let (disk, config) = (write("disk", &disk.bytes())?, write("grub.cfg", GRUB_CFG.as_bytes())?);
    let out = work.path().join("grub.bin");
    let mut mkimage = Command::new(folder.join("usr/bin/grub-mkimage"));
    mkimage.env("LD_LIBRARY_PATH", folder.join("lib/x86_64-linux-gnu"));
    mkimage.args(["--format=i386-xen_pvh", "--prefix=/", "--directory"]);
    mkimage.arg(folder.join("usr/lib/grub/i386-xen_pvh")).arg("--memdisk").arg(disk);
    mkimage.arg("--config").arg(config).arg("--output").arg(&out).args(MODULES);
    let done = mkimage.output().context("kaslr: run grub-mkimage")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "kaslr: grub-mkimage: {}: {}", done.status, said.trim());
    images::read(&out)
}

/// What the slide is computed from.
const ANCHOR: &str = "entry_SYSCALL_64";

/// What `symbols push --json` says.
#[derive(Deserialize)]
struct Pushed {
    slide: String,
}

/// What `domain show --ranges --json` says.
#[derive(Deserialize)]
struct Shown {
    table: Vec<Row>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Row {
    start: String,
    end: String,
    class: String,
}

/// What one guest said of itself.
struct Told<'a> {
    text: &'a str,
    symbols: Vec<(u64, &'a str)>,
}

fn one(transcript: &Transcript, image: &KernelImage, ranges: &Ranges, boot: usize) -> Result<u64> {
    let captured = |what: &str| {
        let found = transcript
            .captured
            .get(&format!("{what}-{boot}"))
            .with_context(|| format!("no {what} came out"))?;
        ensure!(found.status == 0, "{what}: status {}: {}", found.status, found.text.trim());
        Ok(found.text.as_str())
    };
    let told = told(captured("guest")?)?;
    let live = told
        .symbols
        .iter()
        .find(|(_, name)| *name == ANCHOR)
        .context("the guest told no entry_SYSCALL_64")?
        .0;
    let link = image.symbol(ANCHOR).context("the image has no entry_SYSCALL_64")?.address;
    let slide = live.wrapping_sub(link);
    if let Ok(text) = captured("push") {
        let pushed: Pushed = serde_json::from_str(text).context("what symbols push says")?;
        ensure!(
            pushed.slide == format!("{slide:#x}"),
            "the guest's own symbols say slide {slide:#x}, symbols push found {}",
            pushed.slide
        );
    }
    let text = text_of(image, slide);
    ensure!(
        told.text == text,
        "at slide {slide:#x} the image's text symbols are {text}, /proc/kallsyms has {}",
        told.text
    );
    let moved = ranges.slide(slide.cast_signed())?;
    for range in &moved {
        for name in &range.names {
            let there = |&&(address, named): &&(u64, &str)| {
                named == name && (range.start..range.end).contains(&address)
            };
            ensure!(
                told.symbols.iter().any(|symbol| there(&symbol)),
                "/proc/kallsyms has no {name} in {:#x}..{:#x}",
                range.start,
                range.end
            );
        }
    }
    let row = |range: &microslice_symtab::Range| Row {
        start: format!("{:#x}", range.start),
        end: format!("{:#x}", range.end),
        class: range.class.name().to_owned(),
    };
    let shown: Shown = serde_json::from_str(captured("ranges")?).context("what domain show says")?;
    let wanted: Vec<Row> = moved.iter().map(row).collect();
    if let Some((got, wanted)) = shown.table.iter().zip(&wanted).find(|(got, wanted)| got != wanted) {
        bail!("Xen has {got:?} in the place of {wanted:?}");
    }
    ensure!(shown.table.len() == wanted.len(), "Xen has {} ranges of {}", shown.table.len(), wanted.len());
    Ok(slide)
}

fn told(text: &str) -> Result<Told<'_>> {
    let lines =
        || text.lines().filter_map(|line| line.split_once("@kallsyms ")).map(|(_, rest)| rest.trim_end());
    let sum = lines().find_map(|line| line.strip_prefix("text ")).context("the guest told no checksum")?;
    let symbols = lines().filter_map(|line| line.strip_prefix("symbol ")).map(|line| {
        let (address, rest) = line.split_once(' ')?;
        Some((u64::from_str_radix(address, 16).ok()?, rest.split_once(' ')?.1))
    });
    let symbols = symbols.collect::<Option<_>>().context("a symbol that the guest told")?;
    Ok(Told { text: sum, symbols })
}

/// Count and SHA-256 of the text symbols as /proc/kallsyms would have them, as the guest's program makes it.
fn text_of(image: &KernelImage, slide: u64) -> String {
    let (mut count, mut sum) = (0u64, Sha256::new());
    for symbol in image.symbols().filter(|symbol| symbol.is_text() && symbol.module.is_none()) {
        count += 1;
        let address = symbol.address.wrapping_add(slide);
        sum.update(format!("{address:016x} {} {}\n", symbol.kind, symbol.name));
    }
    let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{count} {sum}")
}
