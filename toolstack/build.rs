// SPDX-License-Identifier: GPL-3.0-only
//! Binds the public headers and libxencall of the patched Xen tree that MICROSLICE_XEN_TREE names, and links with its
//! libraries. The domctl and sysctl interface belongs to one Xen release, so no other tree will do.
//!
//! The libraries are gathered as links in OUT_DIR/lib: one search path for the linker, and `cargo test` and `cargo run`
//! put a search path below the target directory into LD_LIBRARY_PATH by themselves. No path is built into the binary.

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

const VAR: &str = "MICROSLICE_XEN_TREE";
const HELP: &str = "`cargo xtask toolstack build` makes such a tree and builds this package with the right environment; \
by hand: apply xen-patches/4.20 to Xen's source, configure, `make -C tools/include && make -C tools/libs`, then set \
MICROSLICE_XEN_TREE to that tree and BINDGEN_EXTRA_CLANG_ARGS as toolstack/README.md says";

fn fail(what: &str) -> ! {
    eprintln!("error: microslice: {what}\n  {HELP}");
    process::exit(1);
}

fn main() {
    println!("cargo:rerun-if-env-changed={VAR}");
    println!("cargo:rerun-if-changed=src/hyper/wrapper.h");
    let Some(tree) = env::var_os(VAR).map(PathBuf::from) else {
        fail(&format!("{VAR} is not set: it names the root of a patched Xen tree with built libraries"));
    };
    let Ok(tree) = fs::canonicalize(&tree) else {
        fail(&format!("{VAR}={}: no such directory", tree.display()));
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    check_headers(&tree);
    let version = xen_version(&tree);
    println!("cargo:rustc-env=MICROSLICE_XEN_VERSION={version}");
    let lib = out.join("lib");
    if let Err(e) = gather_libraries(&tree, &lib) {
        fail(&format!("gather the libraries of {}: {e}", tree.display()));
    }
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath-link={}", lib.display());
    for name in ["xencall", "xenforeignmemory", "xentoollog"] {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
    bind(&tree, &out);
}

/// Headers that are there but lack our interface are the likeliest mistake: an unpatched tree.
fn check_headers(tree: &Path) {
    let header = tree.join("tools/include/xen/domctl.h");
    println!("cargo:rerun-if-changed={}", header.display());
    println!("cargo:rerun-if-changed={}", tree.join("tools/include/xen/sysctl.h").display());
    match fs::read_to_string(&header) {
        Ok(text) if text.contains("XEN_SCHEDULER_MICROSLICE") => {}
        Ok(_) => fail(&format!("{VAR}={}: this Xen tree lacks xen-patches/4.20", tree.display())),
        Err(e) => fail(&format!("read {}: {e} (has `make -C tools/include` run?)", header.display())),
    }
}

fn xen_version(tree: &Path) -> String {
    let path = tree.join("xen/Makefile");
    println!("cargo:rerun-if-changed={}", path.display());
    let text = fs::read_to_string(&path).unwrap_or_else(|e| fail(&format!("read {}: {e}", path.display())));
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_else(|| fail(&format!("{}: no {name}", path.display())))
    };
    format!("{}.{}", field("XEN_VERSION"), field("XEN_SUBVERSION"))
}

fn gather_libraries(tree: &Path, lib: &Path) -> io::Result<()> {
    let _ = fs::remove_dir_all(lib);
    fs::create_dir_all(lib)?;
    for dir in fs::read_dir(tree.join("tools/libs"))? {
        let dir = dir?.path();
        if !dir.is_dir() {
            continue;
        }
        for file in fs::read_dir(&dir)? {
            let file = file?.path();
            let Some(name) = file.file_name().and_then(|n| n.to_str()) else { continue };
            if name.starts_with("libxen") && name.contains(".so") {
                std::os::unix::fs::symlink(&file, lib.join(name))?;
            }
        }
    }
    for name in ["libxenctrl.so", "libxencall.so", "libxenforeignmemory.so", "libxentoollog.so"] {
        if !lib.join(name).exists() {
            return Err(io::Error::other(format!("{name} is missing (has `make -C tools/libs` run?)")));
        }
    }
    Ok(())
}

fn bind(tree: &Path, out: &Path) {
    let bindings = bindgen::Builder::default()
        .header("src/hyper/wrapper.h")
        .clang_arg(format!("-I{}", tree.join("tools/include").display()))
        .clang_arg(format!("-I{}", tree.join("tools/libs/call/include").display()))
        .clang_arg(format!("-I{}", tree.join("tools/libs/foreignmemory/include").display()))
        .clang_arg(format!("-I{}", tree.join("tools/libs/toollog/include").display()))
        .allowlist_type("xen_(domctl|sysctl)(_.*)?")
        .allowlist_type("hvm_hw_cpu|__HVM_SAVE_TYPE_CPU")
        .allowlist_function("xencall_(open|close|alloc_buffer|free_buffer)|xencall1|fopen")
        .allowlist_function("xenforeignmemory_(open|close|map|unmap)")
        .allowlist_function("xtl_createlogger_stdiostream|xtl_logger_destroy")
        .allowlist_var("XEN_(DOMCTL|SYSCTL)_.*|XEN_SCHEDULER_.*|__HYPERVISOR_(domctl|sysctl)")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .derive_default(true)
        .layout_tests(true)
        .generate()
        .unwrap_or_else(|e| fail(&format!("bind the headers of {}: {e}", tree.display())));
    if let Err(e) = bindings.write_to_file(out.join("raw.rs")) {
        fail(&format!("write bindings: {e}"));
    }
}
