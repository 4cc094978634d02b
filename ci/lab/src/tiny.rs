// SPDX-License-Identifier: GPL-3.0-only
//! The smallest PVH guest that a toolstack takes for a booted kernel: its vCPU 0 says in MSR_LSTAR where it takes system calls, and
//! sleeps. `xl` makes one in a fraction of the time that a Linux guest takes.

/// Where it is loaded and starts.
const ENTRY: u32 = 0x10_0000;
/// What its MSR_LSTAR holds: 10 MiB beyond where the test's range files have entry_SYSCALL_64.
const LSTAR: u64 = 0xffff_ffff_81a0_0080;
/// XEN_ELFNOTE_PHYS32_ENTRY of xen/include/public/elfnote.h: makes an ELF file a PVH kernel.
const PHYS32_ENTRY: u32 = 18;
const MSR_LSTAR: u32 = 0xc000_0082;

/// The ELF file.
pub fn kernel() -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const PAGE: u64 = 4096;
    let code = code();
    let note: Vec<u8> = [4u32, 4, PHYS32_ENTRY, u32::from_le_bytes(*b"Xen\0"), ENTRY]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |value: u64, bytes: usize| file.extend_from_slice(&value.to_le_bytes()[..bytes]);
    // Elf64_Ehdr: an executable for x86-64, two program headers behind it, no sections.
    for (value, bytes) in [(2, 2), (62, 2), (1, 4), (ENTRY.into(), 8), (64, 8), (0, 8), (0, 4)] {
        put(value, bytes);
    }
    for value in [64, 56, 2, 0, 0, 0] {
        put(value, 2);
    }
    // Elf64_Phdr: one to load, with one page for the code, and the note.
    let (entry, loaded, noted) = (u64::from(ENTRY), code.len() as u64, note.len() as u64);
    for (kind, flags, offset, at, size, room) in
        [(1, 7, PAGE, entry, loaded, PAGE), (4, 4, HEADERS, 0, noted, noted)]
    {
        put(kind, 4);
        put(flags, 4);
        for value in [offset, at, at, size, room, 4] {
            put(value, 8);
        }
    }
    file.extend_from_slice(&note);
    file.resize(PAGE as usize, 0);
    file.extend_from_slice(&code);
    file
}

/// 32-bit protected mode, as PVH starts it.
fn code() -> Vec<u8> {
    let mut code = Vec::new();
    // mov $MSR_LSTAR, %ecx; mov $low, %eax; mov $high, %edx
    for (opcode, value) in [(0xb9, MSR_LSTAR), (0xb8, LSTAR as u32), (0xba, (LSTAR >> 32) as u32)] {
        code.push(opcode);
        code.extend_from_slice(&value.to_le_bytes());
    }
    // wrmsr; sti; again: hlt; jmp again. Nothing is there to wake it.
    code.extend_from_slice(&[0x0f, 0x30, 0xfb, 0xf4, 0xeb, 0xfd]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use goblin::elf::Elf;

    #[test]
    fn it_is_an_elf_file_with_xens_note() {
        let file = kernel();
        let elf = Elf::parse(&file).unwrap();
        assert_eq!((elf.entry, elf.program_headers.len()), (ENTRY.into(), 2));
        let load = &elf.program_headers[0];
        assert_eq!((load.p_paddr, &file[load.file_range()]), (ENTRY.into(), &code()[..]));
        let note = elf.iter_note_headers(&file).unwrap().next().unwrap().unwrap();
        assert_eq!((note.name, note.n_type, note.desc), ("Xen", PHYS32_ENTRY, &ENTRY.to_le_bytes()[..]));
    }
}
