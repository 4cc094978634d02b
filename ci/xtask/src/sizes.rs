// SPDX-License-Identifier: GPL-3.0-only
//! How much there is to read and to trust in sched-rs/core and sched-rs/ffi: lines and unsafe blocks, counted in the source.

use crate::cache::files_below;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;

/// One crate's source, without its tests and without what only a host is given (ffi's replay).
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
pub struct Size {
    /// Lines that are neither blank nor comments.
    pub code: usize,
    /// Lines of comments, documentation included.
    pub comments: usize,
    /// Unsafe blocks.
    pub unsafe_blocks: usize,
    /// Files.
    pub files: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, comments, unsafe_blocks, files } = self;
        write!(
            f,
            "{code} lines of code, {comments} of comments, {unsafe_blocks} unsafe blocks in {files} files"
        )
    }
}

impl Size {
    /// Counts the crate at `dir`.
    ///
    /// # Errors
    /// If its source cannot be read.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut all = Self::default();
        let src = dir.join("src");
        for file in files_below(&src)?.iter().filter(|f| *f != Path::new("replay.rs")) {
            let path = src.join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            all.add(&text);
        }
        Ok(all)
    }

    fn add(&mut self, text: &str) {
        self.files += 1;
        let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for line in product.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if line.starts_with("//") {
                self.comments += 1;
            } else {
                self.code += 1;
                self.unsafe_blocks += line.matches("unsafe {").count();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comments_and_unsafe_blocks_are_told_apart_and_tests_left_out() {
        let mut size = Size::default();
        size.add("//! unsafe { in words }\n\nfn f() {\n    let x = unsafe { g() }; // why\n}\n#[cfg(test)]\nmod tests {\n    unsafe {}\n}\n");
        assert_eq!(size, Size { code: 3, comments: 1, unsafe_blocks: 1, files: 1 });
    }
}
