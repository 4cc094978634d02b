// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose kernel: which build an image is of, and whether a guest runs that one.
//!
//! Two builds of a kernel differ in their banner (release, builder, compiler, date). A running kernel has its banner in
//! read-only memory at `linux_banner`, moved by KASLR's slide; its /proc/version reads the same. So the order is: a slide
//! that [`crate::kaslr`] finds possible, then the banner at [`Identity::banner_at`] plus that slide against the image's.
//! Lists of symbols hold no banner: for them only the slide can be checked.

use crate::hex;
use serde::{Deserialize, Serialize};

/// Bytes of guest memory to read for a banner: it ends at a newline or NUL before that (Linux's own buffers for it are
/// shorter).
pub const BANNER_BYTES: usize = 512;

/// What tells one build of a kernel from another, as far as an image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// "Linux version 6.1.0-56-amd64 (...) ... #1 SMP ...", without the newline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banner: Option<String>,
    /// Where a running kernel has it, at its link-time address.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex::optional")]
    pub banner_at: Option<u64>,
    /// The GNU build id in lower-case hex, which two images of one build share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
}

/// A running kernel's banner that is not the image's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image is of \"{image}\", but the guest runs \"{running}\"")]
pub struct OtherKernel {
    /// The image's banner.
    pub image: String,
    /// The running kernel's.
    pub running: String,
}

impl Identity {
    /// Whether a running kernel with that banner is of this build: `Ok(true)` if the banners are equal, blanks at
    /// their ends aside; `Ok(false)` if the image has none, so that nothing was checked.
    ///
    /// ```
    /// use microslice_symtab::Identity;
    /// let image = Identity { banner: Some("Linux version 6.1.0 (a@b) #1 SMP".into()), ..Identity::default() };
    /// assert_eq!(image.check("Linux version 6.1.0 (a@b) #1 SMP\n"), Ok(true));
    /// let other = image.check("Linux version 6.1.0 (a@b) #2 SMP").unwrap_err();
    /// assert_eq!(other.running, "Linux version 6.1.0 (a@b) #2 SMP");
    /// assert_eq!(Identity::default().check("Linux version 6.1.0 (a@b) #1 SMP"), Ok(false));
    /// ```
    ///
    /// # Errors
    /// [`OtherKernel`] with both banners.
    pub fn check(&self, running: &str) -> Result<bool, OtherKernel> {
        match self.banner.as_deref().map(str::trim) {
            None => Ok(false),
            Some(image) if image == running.trim() => Ok(true),
            Some(image) => Err(OtherKernel { image: image.to_owned(), running: running.trim().to_owned() }),
        }
    }
}

/// The banner at the start of some memory: up to a newline or NUL, which must come within [`BANNER_BYTES`].
///
/// ```
/// use microslice_symtab::banner_in;
/// assert_eq!(banner_in(b"Linux version 6.1.0 (a@b) #1 SMP\n\0..").unwrap(), "Linux version 6.1.0 (a@b) #1 SMP");
/// assert_eq!(banner_in(b"Linux version without end"), None);
/// assert_eq!(banner_in(b"something else\n"), None);
/// ```
pub fn banner_in(memory: &[u8]) -> Option<String> {
    let head = memory.get(..memory.len().min(BANNER_BYTES))?;
    let line = head.get(..head.iter().position(|&b| b == b'\n' || b == 0)?)?;
    let line = std::str::from_utf8(line).ok()?;
    crate::Version::from_banner(line).map(|_| line.trim_end().to_owned())
}
