// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a stripped ELF file says that its symbols are: a separate file of debugging information.
//!
//! Two ways, both GDB's (manual, "Separate Debug Files"): a build id names `ROOT/.build-id/ab/cdef...debug`, and
//! `.gnu_debuglink` holds a file's name and the CRC-32 of its contents; the file is looked for beside the image, in `.debug`
//! beside it, and below ROOT at the image's own directory. ROOT is `/usr/lib/debug`. A file counts only if its build id is
//! the image's, or, if one of them has none, its CRC-32 the link's.

use crate::elf::{Elf, ElfTable};
use crate::error::Error;
use crate::image::Limits;
use crate::map;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where distributions install separate debugging information.
pub(crate) const ROOT: &str = "/usr/lib/debug";

/// What an image says of its debug file.
#[derive(Debug, Default)]
pub(crate) struct DebugLink {
    pub(crate) build_id: Option<Vec<u8>>,
    /// Name without a directory, and CRC-32 of the contents.
    pub(crate) link: Option<(String, u32)>,
}

impl DebugLink {
    /// Files that may be it, likeliest first.
    fn candidates(&self, image: &Path, root: &Path) -> Vec<PathBuf> {
        let mut places = Vec::new();
        if let Some([first, rest @ ..]) = self.build_id.as_deref() {
            let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            places.push(root.join(format!(".build-id/{first:02x}/{rest}.debug")));
        }
        if let Some((name, _)) = &self.link {
            let dir = image.parent().unwrap_or(Path::new(""));
            places.extend([dir.join(name), dir.join(".debug").join(name)]);
            let absolute = dir.canonicalize().unwrap_or_default();
            places.push(root.join(absolute.strip_prefix("/").unwrap_or(&absolute)).join(name));
        }
        places.retain(|place| place != image);
        places
    }

    /// The debug file, and its symbols.
    ///
    /// # Errors
    /// [`Error::DebugLink`] with what was looked at, if the image names a file that is not there or is not the right
    /// one; `None` if it names none.
    pub(crate) fn follow(
        &self,
        image: &Path,
        root: &Path,
        limits: &Limits,
    ) -> Option<Result<(PathBuf, ElfTable), Error>> {
        let mut tried = Vec::new();
        for place in self.candidates(image, root) {
            match self.open(&place, limits) {
                Ok(table) => return Some(Ok((place, table))),
                Err(why) => tried.push(format!("{}: {why}", place.display())),
            }
        }
        (!tried.is_empty()).then(|| Err(Error::DebugLink(tried.join("; "))))
    }

    fn open(&self, place: &Path, limits: &Limits) -> Result<ElfTable, Error> {
        if !std::fs::metadata(place)?.is_file() {
            return Err(Error::NotAKernel("not a regular file"));
        }
        let data = map::map(&File::open(place)?)?;
        let elf = Elf::parse(&data)?;
        let same = match (self.build_id.as_deref(), elf.build_id(), &self.link) {
            (Some(own), Some(its), _) => own == its,
            (_, _, Some((_, crc))) => {
                let mut sum = flate2::Crc::new();
                data.chunks(1 << 20).for_each(|chunk| sum.update(chunk));
                sum.sum() == *crc
            }
            _ => false,
        };
        if !same {
            return Err(Error::damaged("debug file", "it is of another build"));
        }
        elf.table(Some(&data), limits)?.ok_or(Error::NoSymbols("the debug file has none either"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_gdb() {
        let link =
            DebugLink { build_id: Some(vec![0xab, 0xcd, 0x0e]), link: Some(("vmlinux.debug".into(), 0)) };
        let root = Path::new("/usr/lib/debug");
        let places = link.candidates(Path::new("/nowhere/boot/vmlinux"), root);
        let expected = [
            "/usr/lib/debug/.build-id/ab/cd0e.debug",
            "/nowhere/boot/vmlinux.debug",
            "/nowhere/boot/.debug/vmlinux.debug",
            "/usr/lib/debug/vmlinux.debug", // the image's directory is not there
        ];
        assert_eq!(places, expected.map(PathBuf::from));
        assert!(DebugLink::default().candidates(Path::new("/boot/vmlinux"), root).is_empty());
        assert!(DebugLink::default().follow(Path::new("vmlinux"), root, &Limits::default()).is_none());
    }
}
