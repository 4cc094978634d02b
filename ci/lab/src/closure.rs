// SPDX-License-Identifier: GPL-3.0-only
//! The shared libraries a program needs, found without running it.
//!
//! Follows DT_NEEDED through the given folders first, then Debian's library folders. A library that
//! is not found is an error that names it and who needs it.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SYSTEM: [&str; 4] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/local/lib"];

/// Libraries by the name programs ask for (their soname), with the file that provides it.
pub type Libraries = BTreeMap<String, PathBuf>;

/// Everything `programs` load, with the libraries of `folders` preferred.
pub fn of(programs: &[&Path], folders: &[PathBuf]) -> Result<Libraries> {
    let mut found = Libraries::new();
    let mut todo: Vec<PathBuf> = programs.iter().map(|path| path.to_path_buf()).collect();
    while let Some(path) = todo.pop() {
        for name in needed(&path)? {
            if found.contains_key(&name) {
                continue;
            }
            let library = locate(&name, folders)
                .with_context(|| format!("library closure: {name}, needed by {}", path.display()))?;
            todo.push(library.clone());
            found.insert(name, library);
        }
    }
    Ok(found)
}

fn needed(path: &Path) -> Result<Vec<String>> {
    let data = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let elf = goblin::elf::Elf::parse(&data).with_context(|| format!("read {} as ELF", path.display()))?;
    let mut names: Vec<String> = elf.libraries.iter().map(|name| (*name).to_owned()).collect();
    if let Some(interpreter) = elf.interpreter
        && let Some(name) = Path::new(interpreter).file_name().and_then(|name| name.to_str())
    {
        names.push(name.to_owned());
    }
    Ok(names)
}

fn locate(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let system = SYSTEM.iter().map(PathBuf::from);
    for folder in folders.iter().cloned().chain(system) {
        let candidate = folder.join(name);
        if candidate.exists() {
            return candidate.canonicalize().with_context(|| format!("resolve {}", candidate.display()));
        }
    }
    bail!("in none of the library folders")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_needs_libc_and_the_loader() {
        let found = of(&[Path::new("/bin/ls")], &[]).unwrap();
        assert!(found.contains_key("libc.so.6") && found.contains_key("ld-linux-x86-64.so.2"));
    }

    #[test]
    fn what_is_not_elf_is_named() {
        let error = of(&[Path::new("/etc/passwd")], &[]).unwrap_err();
        assert!(format!("{error:#}").contains("/etc/passwd"));
    }
}
