// SPDX-License-Identifier: GPL-3.0-only
//! Reads the object that goes into Xen and refuses what must not be there. The artifact counts, not the flags.
//!
//! Refused: undefined symbols outside [`ALLOWED`]; anything on a panic path; relocations through the GOT; SSE, MMX or
//! x87 instructions (the guest's registers are live); indirect calls and jumps (Xen's C has retpolines and its own
//! rules for them); writable data (all state belongs to the caller); names that Xen's symbol table cannot hold; what
//! [`crate::stack`] says of the stack.
//!
//! Names are hashed and small functions inlined, so a panic path is also known by what the handler does: it spins in
//! PAUSE for ever. Nothing else in the library waits, so PAUSE or a jump to itself means that a panic can be reached.

use anyhow::{Context, Result, bail};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use object::elf;
use object::read::elf::ElfFile64;
use object::{Architecture, Object, ObjectKind, ObjectSection, ObjectSymbol, RelocationFlags, SectionKind};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// What Xen gives.
pub const ALLOWED: &[&str] = &["memcpy", "memset", "memmove", "memcmp", "bcmp"];
/// Longest symbol name that Xen's tools/symbols takes.
const LONGEST: usize = 127;
/// Parts of names that only a panic path has.
const PANIC: &[&str] =
    &["panic", "rust_begin_unwind", "unwrap_failed", "expect_failed", "index_fail", "bounds_check"];

/// What a sound object looks like in numbers.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of code.
    pub text_bytes: u64,
    /// Bytes of constants.
    pub rodata_bytes: u64,
    /// Global symbols that it defines.
    pub globals: Vec<String>,
    /// Symbols that it needs.
    pub undefined: Vec<String>,
    /// Instructions that were looked at.
    pub instructions: u64,
    /// Bytes of the largest stack frame.
    pub stack_frame: u64,
    /// Bytes of stack that an entry point takes at most, with all it calls.
    pub stack_depth: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes of code, {} of constants, {} instructions, {} entry points, {} bytes of stack at most, {} in one frame, needs {}",
            self.text_bytes,
            self.rodata_bytes,
            self.instructions,
            self.globals.len(),
            self.stack_depth,
            self.stack_frame,
            if self.undefined.is_empty() { "nothing".to_owned() } else { self.undefined.join(" ") }
        )
    }
}

/// Checks the object at `path`.
///
/// # Errors
/// If it cannot be read or is refused; the error lists every reason.
pub fn check_file(path: &Path) -> Result<Figures> {
    let bytes = std::fs::read(path).with_context(|| format!("reading the object {}", path.display()))?;
    check(&bytes).with_context(|| format!("link check of {}", path.display()))
}

/// Checks an object in memory.
///
/// # Errors
/// If it is no relocatable x86-64 ELF object or is refused.
pub fn check(bytes: &[u8]) -> Result<Figures> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).context("not an ELF object")?;
    if file.kind() != ObjectKind::Relocatable || file.architecture() != Architecture::X86_64 {
        bail!("not a relocatable x86-64 object: {:?}, {:?}", file.kind(), file.architecture());
    }
    let mut faults = Vec::new();
    let mut figures = Figures {
        text_bytes: 0,
        rodata_bytes: 0,
        globals: Vec::new(),
        undefined: Vec::new(),
        instructions: 0,
        stack_frame: 0,
        stack_depth: 0,
    };
    check_symbols(&file, &mut figures, &mut faults);
    for section in file.sections() {
        check_section(&section, &mut figures, &mut faults)?;
    }
    let stack = crate::stack::check(&file, &mut faults)?;
    (figures.stack_frame, figures.stack_depth) = (stack.frame, stack.depth);
    if faults.is_empty() {
        return Ok(figures);
    }
    faults.sort();
    faults.dedup();
    bail!("{} reasons not to link this into Xen:\n  {}", faults.len(), faults.join("\n  "));
}

/// Checks that the linked hypervisor at `path` has all of `names`, the object's entry points.
///
/// # Errors
/// If it cannot be read or lacks one.
pub fn check_linked(path: &Path, names: &[String]) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = ElfFile64::<object::Endianness>::parse(&*bytes)
        .with_context(|| format!("reading {}", path.display()))?;
    let there: HashSet<&str> =
        file.symbols().filter(|s| !s.is_undefined()).filter_map(|s| s.name().ok()).collect();
    let lacking: Vec<&str> = names.iter().map(String::as_str).filter(|n| !there.contains(n)).collect();
    if !lacking.is_empty() {
        bail!("{} was built without the Rust library: it lacks {}", path.display(), lacking.join(", "));
    }
    Ok(())
}

fn check_symbols<'a>(file: &impl Object<'a>, figures: &mut Figures, faults: &mut Vec<String>) {
    for symbol in file.symbols() {
        let name = symbol.name().unwrap_or("(not UTF-8)");
        if name.is_empty() {
            continue;
        }
        if name.len() > LONGEST {
            faults.push(format!("symbol name of {} characters, Xen takes {LONGEST}: {name}", name.len()));
        }
        if PANIC.iter().any(|p| name.contains(p)) {
            faults.push(format!("panic path: {name}"));
        }
        if symbol.is_undefined() {
            if !ALLOWED.contains(&name) {
                faults.push(format!("undefined symbol: {name}"));
            }
            figures.undefined.push(name.to_owned());
        } else if symbol.is_global() {
            figures.globals.push(name.to_owned());
        }
    }
    figures.globals.sort();
    figures.undefined.sort();
}

fn check_section<'a>(
    section: &impl ObjectSection<'a>,
    figures: &mut Figures,
    faults: &mut Vec<String>,
) -> Result<()> {
    let name = section.name().unwrap_or("(not UTF-8)").to_owned();
    let writable = matches!(
        section.kind(),
        SectionKind::Data | SectionKind::UninitializedData | SectionKind::Tls | SectionKind::UninitializedTls
    );
    // Constants with addresses inside live in .data.rel.ro, which Xen keeps read-only after boot.
    if writable && section.size() > 0 && !name.starts_with(".data.rel.ro") {
        faults.push(format!("writable data: {} bytes in {name}", section.size()));
    }
    for (offset, relocation) in section.relocations() {
        if let RelocationFlags::Elf { r_type } = relocation.flags()
            && is_got(r_type)
        {
            faults.push(format!("relocation through the GOT (type {r_type}) at {name}+{offset:#x}"));
        }
    }
    match section.kind() {
        SectionKind::Text => {
            let code = section.data().with_context(|| format!("reading {name}"))?;
            figures.text_bytes += code.len() as u64;
            check_code(&name, code, figures, faults);
        }
        SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => figures.rodata_bytes += section.size(),
        _ => {}
    }
    Ok(())
}

fn is_got(r_type: u32) -> bool {
    matches!(
        r_type,
        elf::R_X86_64_GOT32
            | elf::R_X86_64_GOTPCREL
            | elf::R_X86_64_GOTTPOFF
            | elf::R_X86_64_GOTOFF64
            | elf::R_X86_64_GOTPC32
            | elf::R_X86_64_GOT64
            | elf::R_X86_64_GOTPCREL64
            | elf::R_X86_64_GOTPC64
            | elf::R_X86_64_GOTPLT64
            | elf::R_X86_64_GOTPCRELX
            | elf::R_X86_64_REX_GOTPCRELX
    )
}

fn check_code(name: &str, code: &[u8], figures: &mut Figures, faults: &mut Vec<String>) {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        figures.instructions += 1;
        let at = format!("{name}+{:#x}", instruction.ip());
        if instruction.code() == Code::INVALID {
            faults.push(format!("not an instruction at {at}"));
        }
        match instruction.flow_control() {
            FlowControl::IndirectCall => faults.push(format!("indirect call at {at}")),
            FlowControl::IndirectBranch => faults.push(format!("indirect jump at {at}")),
            _ => {}
        }
        let to_itself =
            instruction.is_jmp_short_or_near() && instruction.near_branch_target() == instruction.ip();
        if instruction.mnemonic() == Mnemonic::Pause || to_itself {
            faults.push(format!("panic path: the panic handler's endless loop at {at}"));
        }
        if uses_vector_or_float(&instruction) {
            faults.push(format!("SSE, MMX or x87 instruction ({:?}) at {at}", instruction.mnemonic()));
        }
    }
}

fn uses_vector_or_float(instruction: &Instruction) -> bool {
    let by_register = instruction.op_count() > 0
        && (0..instruction.op_count()).any(|i| {
            let r = instruction.op_register(i);
            r.is_xmm() || r.is_ymm() || r.is_zmm() || r.is_mm() || r.is_st()
        });
    let by_feature = instruction.cpuid_features().iter().any(|f| {
        matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX)
    });
    by_register || by_feature
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Writer, Relocation, StandardSection, Symbol, SymbolSection};
    use object::{BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};

    fn writer() -> Writer<'static> {
        Writer::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little)
    }

    fn symbol(name: &str, section: SymbolSection) -> Symbol {
        Symbol {
            name: name.into(),
            value: 0,
            size: 0,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section,
            flags: SymbolFlags::None,
        }
    }

    fn with_code(name: &str, code: &[u8]) -> Vec<u8> {
        let mut file = writer();
        let id = file.add_symbol(symbol(name, SymbolSection::Undefined));
        let text = file.section_id(StandardSection::Text);
        file.add_symbol_data(id, text, code, 1);
        file.write().unwrap()
    }

    fn refused(bytes: &[u8], reason: &str) {
        let error = check(bytes).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn plain_code_passes_and_is_counted() {
        let figures = check(&with_code("entry", &[0x48, 0x89, 0xf8, 0xc3])).unwrap();
        assert_eq!((figures.text_bytes, figures.instructions), (4, 2));
        assert_eq!(figures.globals, ["entry"]);
    }

    #[test]
    fn sse_mmx_and_x87_are_refused() {
        for code in [&[0x0f, 0x57, 0xc0][..], &[0x0f, 0x6f, 0xc1], &[0xd9, 0xe8], &[0xc5, 0xf4, 0x57, 0xc0]] {
            refused(&with_code("f", code), "SSE, MMX or x87");
        }
    }

    #[test]
    fn indirect_calls_and_jumps_are_refused() {
        refused(&with_code("f", &[0xff, 0xd0]), "indirect call");
        refused(&with_code("f", &[0xff, 0xe0]), "indirect jump");
        refused(&with_code("f", &[0xff, 0x15, 0, 0, 0, 0]), "indirect call");
    }

    #[test]
    fn panic_paths_and_long_names_are_refused() {
        refused(&with_code("_RNvNtCs1_4core9panicking5panic", &[0xc3]), "panic path");
        refused(&with_code("f", &[0xf3, 0x90, 0xeb, 0xfc]), "panic path");
        refused(&with_code("f", &[0xeb, 0xfe]), "panic path");
        refused(&with_code(&"a".repeat(128), &[0xc3]), "128 characters");
        assert!(check(&with_code(&"a".repeat(127), &[0xc3])).is_ok());
    }

    #[test]
    fn only_allowed_symbols_may_be_undefined_and_none_through_the_got() {
        let calling = |name: &str, r_type: u32| {
            let mut file = writer();
            let text = file.section_id(StandardSection::Text);
            let at = file.append_section_data(text, &[0xe8, 0, 0, 0, 0, 0xc3], 1);
            let target = file.add_symbol(symbol(name, SymbolSection::Undefined));
            let flags = RelocationFlags::Elf { r_type };
            file.add_relocation(text, Relocation { offset: at + 1, symbol: target, addend: -4, flags })
                .unwrap();
            file.write().unwrap()
        };
        assert_eq!(check(&calling("memcpy", elf::R_X86_64_PLT32)).unwrap().undefined, ["memcpy"]);
        refused(&calling("printk", elf::R_X86_64_PLT32), "undefined symbol: printk");
        for r_type in [elf::R_X86_64_GOTPCREL, elf::R_X86_64_GOTPCRELX, elf::R_X86_64_REX_GOTPCRELX] {
            refused(&calling("memcpy", r_type), "through the GOT");
        }
    }

    #[test]
    fn the_stack_is_measured_and_bounded() {
        // push rbx; sub rsp, 0x20; ret
        let figures = check(&with_code("f", &[0x53, 0x48, 0x83, 0xec, 0x20, 0xc3])).unwrap();
        assert_eq!((figures.stack_frame, figures.stack_depth), (48, 48), "return address, RBX and 32 bytes");
        refused(&with_code("f", &[0x48, 0x81, 0xec, 0, 0x10, 0, 0, 0xc3]), "stack frame of 4104 bytes");
        refused(&with_code("f", &[0x48, 0x29, 0xc4, 0xc3]), "stack frame of unknown size");
        refused(&with_code("f", &[0x48, 0x89, 0x44, 0x24, 0xf8, 0xc3]), "red zone");
        refused(&with_code("f", &[0xe8, 0xfb, 0xff, 0xff, 0xff, 0xc3]), "recursion: f -> f");
    }

    #[test]
    fn recursion_through_others_is_found_and_calls_add_up() {
        let calling = |calls: &[(&str, &str)]| {
            let mut file = writer();
            let text = file.section_id(StandardSection::Text);
            let mut ids = std::collections::BTreeMap::new();
            for name in calls.iter().flat_map(|(from, to)| [*from, *to]) {
                ids.entry(name).or_insert_with(|| file.add_symbol(symbol(name, SymbolSection::Undefined)));
            }
            for (from, to) in calls {
                let at = file.add_symbol_data(ids[from], text, &[0x53, 0xe8, 0, 0, 0, 0, 0xc3], 1);
                let flags = RelocationFlags::Elf { r_type: elf::R_X86_64_PLT32 };
                file.add_relocation(text, Relocation { offset: at + 2, symbol: ids[to], addend: -4, flags })
                    .unwrap();
            }
            file.write().unwrap()
        };
        let figures = check(&calling(&[("a", "b"), ("b", "c"), ("c", "memcpy")])).unwrap();
        assert_eq!((figures.stack_frame, figures.stack_depth), (16, 48));
        refused(&calling(&[("a", "b"), ("b", "c"), ("c", "a")]), "recursion: a -> b -> c -> a");
    }

    #[test]
    fn a_hypervisor_without_the_library_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), with_code("ms_rs_init", &[0xc3])).unwrap();
        let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        assert!(check_linked(file.path(), &names(&["ms_rs_init"])).is_ok());
        let error =
            check_linked(file.path(), &names(&["ms_rs_init", "ms_rs_handle"])).unwrap_err().to_string();
        assert!(error.contains("ms_rs_handle") && !error.contains("ms_rs_init"), "{error}");
    }

    #[test]
    fn writable_data_is_refused() {
        let mut file = writer();
        let data = file.section_id(StandardSection::Data);
        file.append_section_data(data, &[1, 2, 3, 4], 4);
        refused(&file.write().unwrap(), "writable data");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(check(b"\x7fELF").is_err());
        assert!(check(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).is_err());
    }
}
