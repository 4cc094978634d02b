// SPDX-License-Identifier: GPL-3.0-only
//! PID 1 of a guest that tells where its kernel is, by its own /proc/kallsyms, and then sleeps.
//!
//! Lines on the console start with `@kallsyms `: `version BANNER`; `text COUNT SHA256`, over all lines `ADDRESS LETTER NAME` with
//! a letter of code (t, T, w, W) as they stand there, without modules; `symbol ADDRESS LETTER NAME` for each line whose name is in
//! the file /names. Then one report of [`protocol`]: done, or failed and why.

use microslice_guest::protocol::{self, Event};
use microslice_guest::sys;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{File, read_to_string};
use std::io::{BufRead, BufReader, Result, Write};

fn main() {
    let told = tell();
    let event = match &told {
        Ok(_) => Event::Done { t_ns: sys::shared_ns() },
        Err(error) => Event::Failed { error: error.to_string() },
    };
    let text = told.unwrap_or_default() + &protocol::line(&event) + "\n";
    let mut out = std::io::stdout().lock();
    // Nowhere to report a broken console to.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3_600));
    }
}

fn tell() -> Result<String> {
    sys::mount("proc", "/proc")?;
    let names = read_to_string("/names")?;
    let version = read_to_string("/proc/version")?;
    let found = read(BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms")?), &names)?;
    Ok(format!("@kallsyms version {}\n{found}", version.trim()))
}

/// The lines of text and symbols.
fn read(list: impl BufRead, names: &str) -> Result<String> {
    let names: HashSet<&str> = names.split_whitespace().collect();
    let (mut count, mut sum, mut found) = (0u64, Sha256::new(), String::new());
    for line in list.lines() {
        let line = line?;
        let mut words = line.split(' ');
        let (Some(_), Some(letter), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(std::io::Error::other(format!("/proc/kallsyms: {line:?}")));
        };
        if !["t", "T", "w", "W"].contains(&letter) || name.contains('\t') {
            continue;
        }
        count += 1;
        sum.update(&line);
        sum.update("\n");
        if names.contains(name) {
            found += &format!("@kallsyms symbol {line}\n");
        }
    }
    let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("@kallsyms text {count} {sum}\n{found}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_summed_and_wanted_names_are_told() {
        let list = "0000000000001000 A x\nffffffff81000000 T _text\nffffffff81000040 t a.cold\nffffffff82000000 D data\n\
                    ffffffffc0000000 t a\t[m]\n";
        let told = super::read(list.as_bytes(), "a.cold data\na\n").unwrap();
        let text = "ffffffff81000000 T _text\nffffffff81000040 t a.cold\n";
        let sum: String =
            <sha2::Sha256 as sha2::Digest>::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(told, format!("@kallsyms text 2 {sum}\n@kallsyms symbol ffffffff81000040 t a.cold\n"));
        assert!(super::read("x\n".as_bytes(), "").is_err());
    }
}
