// SPDX-License-Identifier: GPL-3.0-only
//! Builds the patched hypervisor, and the tools that dom0 needs from the same tree.
//!
//! The two are cached apart: the tools by what they are built from, the hypervisor by the source, all hypervisor
//! patches, the Rust object and the configuration. A hypervisor that must be built is built incrementally.

use crate::cache::{Cache, Key};
use crate::link_check;
use crate::run;
use crate::rustlib::{self, Object};
use crate::series::{Patch, Series, add_sections, for_hypervisor, for_tools};
use crate::source::{self, Source};
use crate::ui::{self, Step};
use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which hypervisor to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// With CONFIG_SCHED_MICROSLICE.
    pub microslice: bool,
    /// With the patches that only the emulated machine needs.
    pub lab: bool,
}

impl Variant {
    fn name(self) -> String {
        let with = if self.microslice { "with" } else { "without" };
        format!("{with}{}", if self.lab { "-lab" } else { "" })
    }

    /// The tree for incremental builds; what differs from the last build there is all that is built.
    pub fn work(self) -> &'static str {
        if self.microslice { "work/xen-with" } else { "work/xen-without" }
    }

    /// Lines that the configuration must have in the end.
    pub fn config(self) -> Vec<&'static str> {
        let option = if self.microslice {
            "CONFIG_SCHED_MICROSLICE=y"
        } else {
            "# CONFIG_SCHED_MICROSLICE is not set"
        };
        vec!["CONFIG_EXPERT=y", "CONFIG_DEBUG=y", option]
    }
}

/// What a build made.
#[derive(Debug, Serialize)]
pub struct Hypervisor {
    /// The directory of all of it.
    pub dir: PathBuf,
    /// The ELF file that QEMU boots.
    pub xen: PathBuf,
    /// The same for a boot loader.
    pub xen_gz: PathBuf,
    /// With symbols.
    pub syms: PathBuf,
    /// Its .config.
    pub config: PathBuf,
}

/// Everything that a build is made from.
#[derive(Debug)]
pub struct Inputs {
    /// Patches and BASE.
    pub series: Series,
    /// Unpatched Xen.
    pub source: Source,
}

impl Inputs {
    /// Reads the series of `version` below `root`; `src` takes the place of Debian's source.
    ///
    /// # Errors
    /// If the series is not sound.
    pub fn read(root: &Path, version: &str, src: Option<&Path>) -> Result<Self> {
        let series = Series::read(root, version)?;
        let source = match src {
            Some(dir) => {
                Source::Tree(dir.canonicalize().with_context(|| format!("opening {}", dir.display()))?)
            }
            None => Source::Debian(series.base.clone()),
        };
        Ok(Self { series, source })
    }

    fn patches(&self, lab: bool) -> Vec<Patch> {
        let lab = if lab { self.series.lab.as_slice() } else { &[] };
        self.series.patches.iter().chain(lab).cloned().collect()
    }
}

/// `make` for Xen's tree: Debian's python, no trace of this machine or of the time.
pub fn make(dir: &Path) -> Command {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cmd = Command::new("make");
    cmd.arg("-C").arg(dir).arg(format!("-j{jobs}")).arg("PYTHON=/usr/bin/python3");
    for (name, value) in [
        ("XEN_WHOAMI", "microslice"),
        ("XEN_DOMAIN", "local"),
        ("XEN_BUILD_HOST", "build"),
        ("XEN_BUILD_DATE", "Thu Jan  1 00:00:00 UTC 1970"),
        ("XEN_BUILD_TIME", "00:00:00"),
        ("LC_ALL", "C"),
    ] {
        cmd.env(name, value);
    }
    cmd.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("CFLAGS").env_remove("LDFLAGS");
    cmd
}

/// Builds the hypervisor or takes it from the cache.
///
/// # Errors
/// If a patch does not apply, the object is refused or the build fails.
pub fn hypervisor(cache: &Cache, root: &Path, inputs: &Inputs, variant: Variant) -> Result<Hypervisor> {
    let object = variant.microslice.then(|| rustlib::build(cache, root)).transpose()?;
    if let Some(object) = &object {
        ui::say(&format!("link check: {}", object.figures));
    }
    let patches = inputs.patches(variant.lab);
    let mut key =
        Key::new("hypervisor 3").field(inputs.source.key()?.hex()).field(variant.config().join("\n"));
    key = add_sections(key, &patches, for_hypervisor);
    if let Some(object) = &object {
        key = rustlib::add_to(key, object)?;
    }
    let dir = cache.entry("hypervisor", &key, |dir| {
        let staged = stage(cache, inputs, &patches)?;
        let work = variant.work();
        let _lock = cache.lock(work)?;
        let tree = cache.dir(work)?;
        source::lay(staged.path(), &tree)?;
        let what = format!("xen: building the hypervisor ({})", variant.name());
        let log = cache.log(&format!("xen-{}", variant.name()));
        make_hypervisor(&tree, &variant.config(), object.as_ref(), &what, &log)?;
        for name in ["xen", "xen.gz", "xen-syms", ".config"] {
            let to = dir.join(name.trim_start_matches('.'));
            fs::copy(tree.join("xen").join(name), &to)
                .with_context(|| format!("keeping {}", to.display()))?;
        }
        Ok(())
    })?;
    let at = |name: &str| dir.join(name);
    Ok(Hypervisor { xen: at("xen"), xen_gz: at("xen.gz"), syms: at("xen-syms"), config: at("config"), dir })
}

/// The source with `patches`, in a directory that is gone when dropped.
///
/// # Errors
/// If the source cannot be had or a patch does not apply.
pub fn stage(cache: &Cache, inputs: &Inputs, patches: &[Patch]) -> Result<tempfile::TempDir> {
    let step = Step::new("xen: unpacking and patching the source");
    let staged = cache.scratch()?;
    inputs.source.unpack(cache, staged.path())?;
    source::apply(staged.path(), patches)?;
    step.done();
    Ok(staged)
}

/// Configures and builds `tree`/xen; `object` is linked if there is one. Looks into the result whether it is.
///
/// # Errors
/// If the build fails, the configuration does not take a line of `wanted`, or the object is not in the result.
pub fn make_hypervisor(
    tree: &Path,
    wanted: &[&str],
    object: Option<&Object>,
    what: &str,
    log: &Path,
) -> Result<()> {
    let mut step = Step::new(what);
    let xen = tree.join("xen");
    configure(&xen, wanted, log, &mut step)?;
    let mut cmd = make(&xen);
    if let Some(object) = object {
        // At a fixed place and written only if it differs, so that `make` sees a change and nothing else.
        let place = tree.join(rustlib::OBJECT);
        let bytes = fs::read(&object.path).with_context(|| format!("reading {}", object.path.display()))?;
        if fs::read(&place).ok().as_ref() != Some(&bytes) {
            fs::write(&place, bytes).with_context(|| format!("writing {}", place.display()))?;
        }
        cmd.arg(format!("MICROSLICE_RS_OBJ={}", place.display()));
    }
    run::logged_in(&mut cmd, log, &mut step)?;
    if let Some(object) = object {
        link_check::check_linked(&xen.join("xen-syms"), &object.figures.globals)?;
    }
    step.done();
    Ok(())
}

/// Writes `.config`, but only if it changes: everything in Xen depends on it.
fn configure(xen: &Path, wanted: &[&str], log: &Path, step: &mut Step) -> Result<()> {
    const ASIDE: &str = ".config.microslice";
    let aside = xen.join(ASIDE);
    let read = |file: &Path| fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
    let write = |file: &Path, text: &str| {
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    };
    let _ = fs::remove_file(&aside);
    let setting = format!("KCONFIG_CONFIG={ASIDE}");
    run::logged_in(make(xen).arg(&setting).arg("defconfig"), log, step)?;
    let text = wanted.iter().fold(read(&aside)?, |text, line| text + line + "\n");
    write(&aside, &text)?;
    run::logged_in(make(xen).arg(&setting).arg("olddefconfig"), log, step)?;
    let text = read(&aside)?;
    if let Some(line) = wanted.iter().find(|w| !text.lines().any(|l| l == **w)) {
        bail!("configuring Xen: `{line}` did not survive `make olddefconfig` (see {})", aside.display());
    }
    let file = xen.join(".config");
    if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
        write(&file, &text)?;
    }
    Ok(())
}

/// Builds the tools' tree or takes it from the cache. The tree keeps its place: files in it hold their own path.
///
/// # Errors
/// If a patch does not apply or the build fails.
pub fn tools(cache: &Cache, inputs: &Inputs) -> Result<PathBuf> {
    let key = tools_key(inputs)?;
    cache.entry_in_place("tools", &key, |dir| {
        let step = Step::new("xen: unpacking and patching the source");
        inputs.source.unpack(cache, dir)?;
        source::apply(dir, &inputs.series.patches)?;
        step.done();
        make_tools(dir, "xen: building the tools", &cache.log("xen-tools"))
    })
}

/// The hypervisor and the tools, side by side: each keeps one core busy only for much of the time.
///
/// # Errors
/// If one of them cannot be built.
pub fn both(cache: &Cache, root: &Path, inputs: &Inputs, variant: Variant) -> Result<(Hypervisor, PathBuf)> {
    std::thread::scope(|scope| {
        let tools = scope.spawn(|| tools(cache, inputs));
        let hypervisor = hypervisor(cache, root, inputs, variant);
        let tools = tools.join().map_err(|_| anyhow!("building the tools: a thread panicked"))?;
        Ok((hypervisor?, tools?))
    })
}

/// The tools' tree if it is built already.
///
/// # Errors
/// If the source cannot be read.
pub fn find_tools(cache: &Cache, inputs: &Inputs) -> Result<Option<PathBuf>> {
    Ok(cache.find("tools", &tools_key(inputs)?))
}

fn tools_key(inputs: &Inputs) -> Result<Key> {
    let key = Key::new("tools 4").field(inputs.source.key()?.hex());
    Ok(add_sections(key, &inputs.series.patches, for_tools))
}

/// Configures (once) and builds the tools of `tree`.
///
/// # Errors
/// If the build fails.
pub fn make_tools(tree: &Path, what: &str, log: &Path) -> Result<()> {
    let mut step = Step::new(what);
    if !tree.join("config/Tools.mk").is_file() {
        let mut cmd = Command::new("./configure");
        cmd.current_dir(tree).env("PYTHON", "/usr/bin/python3").arg("--with-system-qemu=/bin/true");
        let without =
            ["docs", "stubdom", "rombios", "seabios", "ovmf", "ipxe", "ocamltools", "golang", "pygrub"];
        cmd.args(without.map(|w| format!("--disable-{w}")));
        run::logged_in(&mut cmd, log, &mut step)?;
    }
    for part in ["include", "libs", "xl", "xenstored", "console", "helpers"] {
        run::logged_in(&mut make(&tree.join("tools").join(part)), log, &mut step)?;
    }
    // It takes pCPUs of the host off and on; the rest of that folder is not needed.
    run::logged_in(make(&tree.join("tools/misc")).arg("xen-hptool"), log, &mut step)?;
    step.done();
    Ok(())
}
