// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small kernel images, built from a list of symbols in every form and layout that the crate reads.
#![allow(dead_code)] // each test file uses its own part

use std::io::Write;

/// Address, letter, name.
pub type Sym = (u64, char, &'static str);

pub const BASE: u64 = 0xffff_ffff_8100_0000;
pub const BANNER: &str = "Linux version 6.1.0-test (builder@host) (gcc 12) #1 SMP built by a test\n";

/// A kernel in miniature: per-CPU symbols, functions of several classes, two clones, an alias, data.
pub fn kernel() -> Vec<Sym> {
    let text = [
        (0x0000, 'T', "_stext"),
        (0x0000, 'T', "_text"),
        (0x0100, 'T', "entry_SYSCALL_64"),
        (0x0200, 't', "csd_queue"),
        (0x0240, 't', "smp_call_function_many_cond"),
        (0x0300, 'T', "_raw_spin_unlock"),
        (0x0310, 'T', "_raw_spin_unlock_irq"),
        (0x0330, 'T', "__pfx__raw_spin_lock"),
        (0x0340, 'T', "_raw_spin_lock"),
        (0x0360, 't', "rwsem_wake.isra.0"),
        (0x03a0, 't', "flush_tlb_func"),
        (0x0400, 'T', "sysvec_xen_hvm_callback"),
        (0x0400, 'T', "fred_sysvec_xen_hvm_callback"),
        (0x0440, 'T', "resched_curr"),
        (0x0480, 't', "free_one_page.constprop.0"),
        (0x0500, 'T', "ordinary_work"),
        (0x0f00, 't', "flush_tlb_func.cold"),
        (0x1000, 'T', "_etext"),
        (0x2000, 'D', "linux_banner"),
        (0x2100, 'D', "osq_lock"), // data under a catalogued name
        (0x3000, 'T', "start_kernel"),
        (0x3100, 't', "irq_enter"), // outside the kernel's text
    ];
    let percpu = [(0, 'A', "fixed_percpu_data"), (0x1000, 'A', "cpu_debug_store")];
    percpu.into_iter().chain(text.map(|(at, letter, name)| (BASE + at, letter, name))).collect()
}

/// The same with enough names for several markers.
pub fn large_kernel() -> Vec<Sym> {
    let mut all = kernel();
    let fill = (0..700).map(|i| (BASE + 0x600 + i, 't', "filler"));
    let at = all.iter().position(|sym| sym.2 == "flush_tlb_func.cold").unwrap();
    all.splice(at..at, fill);
    all
}

pub fn list(symbols: &[Sym]) -> String {
    symbols.iter().map(|(address, letter, name)| format!("{address:016x} {letter} {name}\n")).collect()
}

/// Which kernel's order and form of the kallsyms tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// 4.4: absolute addresses, markers of 8 bytes.
    Absolute,
    /// 4.6 to 4.19: base-relative, markers of 8 bytes.
    WideMarkers,
    /// 4.20 to 6.1.
    Old,
    /// 6.2 and 6.3: with seqs_of_names.
    Seqs,
    /// 6.4 to 6.14: addresses last.
    New,
    /// Since 6.15: no absolute per-CPU symbols.
    NoPercpu,
    /// Seen in 7.2: aligned to 4 bytes, offsets from their own places.
    ByPlace,
}

impl Layout {
    fn align(self) -> usize {
        if self == Layout::ByPlace { 4 } else { 8 }
    }

    fn percpu(self) -> bool {
        !matches!(self, Layout::NoPercpu | Layout::ByPlace)
    }
}

/// Where a stripped vmlinux has the section that holds the banner and the tables.
const RODATA: u64 = BASE + 0x2000;

pub const LAYOUTS: [Layout; 7] = [
    Layout::Absolute,
    Layout::WideMarkers,
    Layout::Old,
    Layout::Seqs,
    Layout::New,
    Layout::NoPercpu,
    Layout::ByPlace,
];

/// `list` as a kernel of that layout could have it.
pub fn fitting(mut list: Vec<Sym>, layout: Layout) -> Vec<Sym> {
    list.retain(|sym| layout.percpu() || sym.0 >= BASE);
    list
}

fn pad(out: &mut Vec<u8>) {
    pad_to(out, 8);
}

fn pad_to(out: &mut Vec<u8>, align: usize) {
    out.resize(out.len().next_multiple_of(align), 0);
}

/// Token 1 is "_raw_spin", 2 "lock", the printable characters are themselves, the others are unused fillers.
fn token(number: usize) -> String {
    match number {
        1 => "_raw_spin".into(),
        2 => "lock".into(),
        0x21..=0x7e => char::from(number as u8).into(),
        _ => format!("~{number}"),
    }
}

fn compress(letter: char, name: &str) -> Vec<u8> {
    let name = format!("{letter}{name}").replace("_raw_spin", "\u{1}").replace("lock", "\u{2}");
    let big = name.len() >= 0x80;
    let mut out =
        if big { vec![name.len() as u8 | 0x80, (name.len() >> 7) as u8] } else { vec![name.len() as u8] };
    out.extend(name.as_bytes());
    out
}

/// `place` is the address of the first.
fn addresses(symbols: &[Sym], layout: Layout, place: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if layout == Layout::Absolute {
        symbols.iter().for_each(|sym| out.extend(sym.0.to_le_bytes()));
        return out;
    }
    for (&(address, ..), place) in symbols.iter().zip((place..).step_by(4)) {
        let offset = match layout {
            Layout::ByPlace => address.wrapping_sub(place) as u32,
            Layout::NoPercpu => (address - BASE) as u32,
            _ if address < BASE => address as u32,
            _ => (address - BASE) as u32 ^ u32::MAX, // -1 - (address - BASE)
        };
        out.extend(offset.to_le_bytes());
    }
    if layout != Layout::ByPlace {
        pad(&mut out);
        out.extend(BASE.to_le_bytes());
    }
    out
}

/// The tables as scripts/kallsyms.c emits them, if they start `at` bytes into the section of a stripped vmlinux.
pub fn kallsyms(symbols: &[Sym], layout: Layout, at: usize) -> Vec<u8> {
    let late = matches!(layout, Layout::New | Layout::NoPercpu | Layout::ByPlace);
    let align = layout.align();
    let mut out = if late { Vec::new() } else { addresses(symbols, layout, 0) };
    out.extend(&(symbols.len() as u64).to_le_bytes()[..align]);
    let names_at = out.len();
    let mut markers = Vec::new();
    for (i, &(_, letter, name)) in symbols.iter().enumerate() {
        if i % 256 == 0 {
            markers.push(out.len() - names_at);
        }
        out.extend(compress(letter, name));
    }
    pad_to(&mut out, align);
    for marker in markers {
        match layout {
            Layout::Absolute | Layout::WideMarkers => out.extend((marker as u64).to_le_bytes()),
            _ => out.extend((marker as u32).to_le_bytes()),
        }
    }
    pad_to(&mut out, align);
    let seqs: Vec<u8> = (0..symbols.len()).flat_map(|i| [(i >> 16) as u8, (i >> 8) as u8, i as u8]).collect();
    if layout == Layout::Seqs {
        out.extend(&seqs);
        pad_to(&mut out, align);
    }
    let mut index = Vec::new();
    let table_at = out.len();
    for number in 0..256 {
        index.extend(((out.len() - table_at) as u16).to_le_bytes());
        out.extend(token(number).as_bytes());
        out.push(0);
    }
    pad_to(&mut out, align);
    out.extend(index);
    if late {
        out.extend(addresses(symbols, layout, RODATA + (at + out.len()) as u64));
        out.extend(&seqs);
        pad_to(&mut out, align);
    }
    out
}

struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    data: Vec<u8>,
    link: u32,
}

/// These sections, and one with their names.
fn elf(mut sections: Vec<Section>) -> Vec<u8> {
    let (mut names, mut out, mut headers) = (vec![0], vec![0; 64], vec![0_u8; 64]);
    let name = ".shstrtab";
    sections.push(Section { name, kind: 3, flags: 0, address: 0, data: Vec::new(), link: 0 });
    for mut section in sections {
        headers.extend((names.len() as u32).to_le_bytes());
        names.extend(section.name.as_bytes());
        names.push(0);
        if section.name == name {
            section.data.clone_from(&names);
        }
        pad(&mut out);
        let fields: [u64; 4] = [section.flags, section.address, out.len() as u64, section.data.len() as u64];
        headers.extend(section.kind.to_le_bytes());
        fields.iter().for_each(|field| headers.extend(field.to_le_bytes()));
        headers.extend(section.link.to_le_bytes());
        headers.extend([0; 20]);
        out.extend(&section.data);
    }
    pad(&mut out);
    let (at, count) = (out.len() as u64, headers.len() as u16 / 64);
    out.extend(headers);
    out[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    out[20] = 1;
    out[40..48].copy_from_slice(&at.to_le_bytes());
    out[52] = 64;
    out[58] = 64;
    out[60..62].copy_from_slice(&count.to_le_bytes());
    out[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    out
}

/// The same file without its sections' names.
pub fn nameless(mut elf: Vec<u8>) -> Vec<u8> {
    elf[62..64].fill(0);
    elf
}

fn text_section() -> Section {
    Section { name: ".text", kind: 1, flags: 6, address: BASE, data: vec![0x90; 0x100], link: 0 }
}

fn banner_section() -> Section {
    let data = BANNER.as_bytes().to_vec();
    Section { name: ".rodata", kind: 1, flags: 2, address: RODATA, data, link: 0 }
}

fn build_id_section() -> Section {
    let data = [&[4_u8, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0\xde\xad\xbe\xef"].concat();
    Section { name: ".notes", kind: 7, flags: 2, address: 0, data, link: 0 }
}

/// A vmlinux with .symtab; functions have ELF sizes of 16 bytes less than the room they have where `sized`.
pub fn elf_with_symtab(symbols: &[Sym], sized: bool) -> Vec<u8> {
    let (mut table, mut strings) = (vec![0; 24], vec![0]);
    for (i, &(address, letter, name)) in symbols.iter().enumerate() {
        let next = symbols[i..].iter().map(|sym| sym.0).find(|&next| next > address).unwrap_or(address);
        let size = if sized && letter != 'D' { (next - address).saturating_sub(16) } else { 0 };
        let binding = if letter.is_ascii_uppercase() { 0x10 } else { 0 };
        let section: u16 = match letter {
            'A' => 0xfff1,
            'D' => 2,
            _ => 1,
        };
        table.extend((strings.len() as u32).to_le_bytes());
        table.extend([binding | 2, 0]);
        table.extend(section.to_le_bytes());
        table.extend(address.to_le_bytes());
        table.extend(size.to_le_bytes());
        strings.extend(name.as_bytes());
        strings.push(0);
    }
    let symtab = Section { name: ".symtab", kind: 2, flags: 0, address: 0, data: table, link: 5 };
    let strtab = Section { name: ".strtab", kind: 3, flags: 0, address: 0, data: strings, link: 0 };
    let mut banner = banner_section();
    banner.flags = 3;
    elf(vec![text_section(), banner, build_id_section(), symtab, strtab])
}

/// A vmlinux without any symbols, but with a link to its debug file.
pub fn elf_with_debug_link(name: &str, crc: u32, build_id: bool) -> Vec<u8> {
    let mut link = name.as_bytes().to_vec();
    link.resize((name.len() + 4) & !3, 0);
    link.extend(crc.to_le_bytes());
    let link = Section { name: ".gnu_debuglink", kind: 1, flags: 0, address: 0, data: link, link: 0 };
    let mut sections = vec![banner_section(), link];
    if build_id {
        sections.push(build_id_section());
    }
    elf(sections)
}

/// A stripped vmlinux with kallsyms tables among other data.
pub fn elf_with_kallsyms(symbols: &[Sym], layout: Layout) -> Vec<u8> {
    stripped(symbols, layout, 0, 0)
}

/// The same with so many bytes of code before its constants, and of data behind them.
pub fn stripped(symbols: &[Sym], layout: Layout, code: usize, data: usize) -> Vec<u8> {
    let mut rodata = banner_section();
    let out = &mut rodata.data;
    // A table of rising u16, as kernels have some, that is no token_index.
    pad(out);
    out.extend((0..300_u16).flat_map(u16::to_le_bytes));
    pad(out);
    out.resize(out.len() + 8 - layout.align(), 0); // no more aligned than it has to be
    out.extend(kallsyms(symbols, layout, out.len()));
    out.extend([0xff; 64]);
    let filler = |name, flags, address, data| Section { name, kind: 1, flags, address, data, link: 0 };
    let code = filler(".init.text", 6, BASE + 0x1000_0000, vec![0x90; code]);
    let data = filler(".data", 3, BASE + 0x2000_0000, vec![1; data]);
    elf(vec![text_section(), code, rodata, build_id_section(), data])
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 1).unwrap()
}

pub fn xz(data: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

pub fn lzma(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

pub fn lz4(data: &[u8]) -> Vec<u8> {
    lz4_of(&lz4_blocks(data))
}

pub fn lz4_blocks(data: &[u8]) -> Vec<Vec<u8>> {
    data.chunks(8 << 20).map(lz4_block).collect()
}

pub fn lz4_block(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    lzzzz::lz4::compress_to_vec(data, &mut out, lzzzz::lz4::ACC_LEVEL_DEFAULT).unwrap();
    out
}

pub fn lz4_of(blocks: &[Vec<u8>]) -> Vec<u8> {
    let framed = blocks.iter().map(|block| [&(block.len() as u32).to_le_bytes()[..], block].concat());
    [0x184c_2102_u32.to_le_bytes().to_vec()].into_iter().chain(framed).flatten().collect()
}

/// As `lzop -9` writes it: version 1.040, flags Adler-32 of the unpacked data, smaller blocks; every other one stored.
pub fn lzo(data: &[u8]) -> Vec<u8> {
    let mut out = b"\x89LZO\0\r\n\x1a\n\x10\x40\x20\xa0\x09\x40\x03\x09\x03\x00\x00\x01".to_vec();
    out.extend([0; 12]);
    out.extend(b"\x07vmlinux\0\0\0\0");
    for (number, block) in data.chunks(16 << 10).enumerate() {
        let mut packed = lzokay::compress::compress(block).unwrap();
        if number % 2 == 1 || packed.len() >= block.len() {
            packed = block.to_vec();
        }
        out.extend((block.len() as u32).to_be_bytes());
        out.extend((packed.len() as u32).to_be_bytes());
        out.extend([0; 4]);
        out.extend(packed);
    }
    out.extend([0; 4]);
    out
}

/// A bzImage around a packed payload; the build's appended size included.
pub fn bzimage(packed: &[u8], unpacked_len: usize) -> Vec<u8> {
    let mut out = vec![0; 0x800];
    out[0x1f1] = 3;
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    out[0x248..0x24c].copy_from_slice(&0x40_u32.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
    out.resize(0x840, 0xcc);
    out.extend(packed);
    out.extend((unpacked_len as u32).to_le_bytes());
    out.extend([0xcc; 100]);
    out
}
