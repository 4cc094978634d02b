// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every source and every error, on images built here.

mod support;

use microslice_symtab::{Catalog, Class, Compression, Error, KernelImage, Kind, Limits, Ranges};
use support::*;

/// Start relative to the kernel's base, end, class.
fn shape(ranges: &Ranges) -> Vec<(u64, u64, Class)> {
    ranges.iter().map(|range| (range.start - BASE, range.end - BASE, range.class)).collect()
}

const SHAPE: [(u64, u64, Class); 9] = [
    (0x240, 0x300, Class::IpiWait),
    (0x300, 0x330, Class::LockHold), // two functions that touch
    (0x340, 0x360, Class::LockWait), // not its __pfx_
    (0x360, 0x3a0, Class::RwsemWake),
    (0x3a0, 0x400, Class::IpiServe),
    (0x400, 0x440, Class::Irq),
    (0x440, 0x480, Class::Resched),
    (0x480, 0x500, Class::PageAlloc),
    (0xf00, 0x1000, Class::IpiServe), // .cold
];

fn symbols(image: &KernelImage) -> Vec<(u64, char, String)> {
    image.symbols().map(|symbol| (symbol.address, symbol.kind, symbol.name.to_owned())).collect()
}

fn expected(list: &[Sym]) -> Vec<(u64, char, String)> {
    list.iter().map(|&(address, letter, name)| (address, letter, name.to_owned())).collect()
}

fn error(data: &[u8]) -> String {
    KernelImage::from_bytes(data).unwrap_err().to_string()
}

#[test]
fn system_map() {
    let image = KernelImage::from_bytes(list(&kernel()).as_bytes()).unwrap();
    assert_eq!((image.kind(), image.version_banner()), (Kind::SystemMap, None));
    assert_eq!(symbols(&image), expected(&kernel()));
    assert_eq!(shape(&image.ranges(&Catalog::builtin())), SHAPE);
    assert_eq!(image.symbol("entry_SYSCALL_64").unwrap().address, BASE + 0x100);
    assert_eq!(image.symbol("entry_SYSCALL"), None);
}

#[test]
fn kallsyms_dump_with_its_modules() {
    const MODULES: &str = "ffffffffc0001000 t blkif_interrupt\t[xen_blkfront]
ffffffffc0001080 t irq_exit\t[xen_blkfront]
ffffffffc0000f00 t blkif_interrupt.cold\t[xen_blkfront]
ffffffffbfffe000 t irq_enter\t[mine]
ffffffffbfffe010 t blkif_interrupt\t[mine]
ffffffffc0001090 d blkif_interrupt\t[xen_blkfront]\n";
    let image = KernelImage::from_bytes((list(&kernel()) + MODULES).as_bytes()).unwrap();
    assert_eq!(image.kind(), Kind::Kallsyms);
    let proper: Vec<_> = symbols(&image).into_iter().take(kernel().len()).collect();
    assert_eq!(proper, expected(&kernel()));
    let user = "symbols: [{name: blkif_interrupt, class: irq, module: xen_blkfront}]";
    let catalog = Catalog::builtin().with(Catalog::from_yaml("mine.yaml", user).unwrap());
    let ranges = image.ranges(&catalog);
    let of_modules: Vec<_> = ranges
        .iter()
        .filter(|range| range.is_live_only())
        .map(|r| (r.start, r.end, r.names.join(" ")))
        .collect();
    let name = |name: &str| format!("{name} [xen_blkfront]");
    let blkfront = 0xffff_ffff_c000_1000;
    // The cold part is the last before another page, and ends with its own.
    assert_eq!(
        of_modules,
        [(blkfront - 0x100, blkfront + 0x80, name("blkif_interrupt.cold") + " " + &name("blkif_interrupt"))]
    );
    assert_eq!(shape(&image.ranges(&Catalog::builtin())), SHAPE);
    assert_eq!(image.symbol("blkif_interrupt"), None);
    assert_eq!(image.symbols_at(0xffff_ffff_c000_0fff).next().unwrap().module, Some("xen_blkfront"));
    assert_eq!(image.symbols_at(0xffff_ffff_bfff_f000).next(), None); // mine's last function ends with its page
    assert_eq!(image.symbols_at(0xffff_ffff_bfff_efff).next().unwrap().module, Some("mine"));
    assert!(ranges.slide(0).is_ok());
    let err = ranges.slide(0x20_0000).unwrap_err().to_string();
    assert!(err.contains("blkif_interrupt.cold [xen_blkfront]") && err.contains("one boot only"), "{err}");
}

#[test]
fn symbol_lists_that_cannot_serve() {
    let zeros: Vec<Sym> = kernel().iter().map(|&(_, letter, name)| (0, letter, name)).collect();
    assert!(matches!(KernelImage::from_bytes(list(&zeros).as_bytes()), Err(Error::HiddenAddresses)));
    let debian = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n";
    assert!(matches!(KernelImage::from_bytes(debian), Err(Error::Placeholder(_))));
    assert_eq!(error(b"0000000000001000 T main\nwhat\n"), "line 2: not ADDRESS LETTER NAME");
    assert_eq!(error(b"0000000000001000 T main\n"), "not a Linux kernel: its symbols lack _stext");
    let cut = &list(&kernel()).into_bytes()[..200];
    assert!(KernelImage::from_bytes(cut).is_err());
}

/// Labels of sections are neither functions nor in their way: one at a start is an alias, one behind the last function ends it.
#[test]
fn labels_and_padding_between_functions() {
    let image = KernelImage::from_bytes(
        b"ffffffff81000000 T _stext\nffffffff81000000 T entry_SYSCALL_64
ffffffff81000100 T __lock_text_start\nffffffff81000100 T _raw_spin_lock
ffffffff81000140 T _raw_spin_unlock\nffffffff81000160 T __lock_text_end
ffffffff810001f0 t __pfx_osq_lock\nffffffff81000200 t osq_lock
ffffffff81000300 t free_one_page.part.0\nffffffff81000380 T __irqentry_text_start
ffffffff81001000 T _etext\n",
    );
    let ranges = image.unwrap().ranges(&Catalog::builtin());
    assert_eq!(
        shape(&ranges),
        [
            (0x100, 0x140, Class::LockWait),
            (0x140, 0x160, Class::LockHold),
            (0x200, 0x300, Class::LockWait),
            (0x300, 0x380, Class::PageAlloc),
        ]
    );
    assert_eq!(ranges.as_slice()[0].names, ["_raw_spin_lock"]);
}

#[test]
fn elf_symbols_with_and_without_sizes() {
    for sized in [false, true] {
        let image = KernelImage::from_bytes(&elf_with_symtab(&kernel(), sized)).unwrap();
        assert_eq!(image.kind(), Kind::Elf);
        assert_eq!(image.version_banner().unwrap(), BANNER.trim_end());
        assert_eq!(image.build_id().unwrap(), "deadbeef");
        assert_eq!(symbols(&image), expected(&kernel()));
        let ranges = image.ranges(&Catalog::builtin());
        if sized {
            assert_eq!(shape(&ranges)[0], (0x240, 0x2f0, Class::IpiWait));
            assert_eq!(ranges.len(), SHAPE.len()); // _raw_spin_unlock has size 0: up to the next, which it touches
        } else {
            assert_eq!(shape(&ranges), SHAPE);
        }
    }
}

/// With a symbol for it, or found by its text.
#[test]
fn the_banner_and_its_place_tell_builds_apart() {
    let unnamed: Vec<Sym> = kernel().into_iter().filter(|sym| sym.2 != "linux_banner").collect();
    for image in [elf_with_symtab(&kernel(), true), elf_with_kallsyms(&unnamed, Layout::New)] {
        let image = KernelImage::from_bytes(&image).unwrap();
        let identity = image.identity();
        assert_eq!(identity.banner_at, Some(BASE + 0x2000));
        assert_eq!(identity.check(BANNER), Ok(true));
        let err = identity.check("Linux version 6.1.0-test2 (x)").unwrap_err().to_string();
        assert_eq!(
            err,
            format!(
                "the image is of \"{}\", but the guest runs \"Linux version 6.1.0-test2 (x)\"",
                BANNER.trim()
            )
        );
        let json = serde_json::to_string(identity).unwrap();
        assert_eq!(&serde_json::from_str::<microslice_symtab::Identity>(&json).unwrap(), identity);
    }
    let list = KernelImage::from_bytes(list(&kernel()).as_bytes()).unwrap();
    assert_eq!((list.identity().banner_at, list.identity().check(BANNER)), (Some(BASE + 0x2000), Ok(false)));
}

#[test]
fn an_address_is_explained() {
    let user =
        "symbols:\n  - {name: csd_queue, class: none, why: not here}\n  - {name: linux_banner, class: irq}\n";
    let catalog = Catalog::builtin().with(Catalog::from_yaml("mine.yaml", user).unwrap());
    let image = KernelImage::from_bytes(list(&kernel()).as_bytes()).unwrap();
    let explain = |address: u64| image.explain(&catalog, BASE + address).to_string();
    let texts = [0xf10, 0x210, 0x510, 0x3100, 0x2010, 0x9000].map(explain).concat();
    insta::assert_snapshot!(texts, @r"
    0xffffffff81000f10: class ipi-serve
      flush_tlb_func.cold+0x10: rule flush_tlb_func (ipi-serve): the shootdown's work; also up to 4.11, the next two between
    0xffffffff81000210: class none
      csd_queue+0x10: rule csd_queue (none): not here
    0xffffffff81000510: class none
      ordinary_work+0x10: no rule
    0xffffffff81003100: class none: no symbol holds it
    0xffffffff81002010: class none: it is outside of the kernel's text
      linux_banner+0x10: rule linux_banner (irq): 
    0xffffffff81009000: class none: no symbol holds it
    ");
}

#[test]
fn kallsyms_of_every_layout() {
    for layout in LAYOUTS {
        for list in [kernel(), large_kernel()] {
            let list = fitting(list, layout);
            let elf = elf_with_kallsyms(&list, layout);
            for elf in [nameless(elf.clone()), elf] {
                let image = KernelImage::from_bytes(&elf).unwrap();
                assert_eq!(image.kind(), Kind::StrippedElf);
                assert_eq!(symbols(&image), expected(&list), "{layout:?}");
                assert_eq!(image.version().unwrap(), "6.1".parse().unwrap());
            }
        }
    }
}

#[test]
fn names_of_more_than_127_tokens() {
    let mut list = kernel();
    let long: &'static str = "x".repeat(400).leak();
    let at = list.iter().position(|sym| sym.2 == "flush_tlb_func.cold").unwrap();
    list.insert(at, (BASE + 0x600, 't', long));
    let image = KernelImage::from_bytes(&elf_with_kallsyms(&list, Layout::New)).unwrap();
    assert_eq!(image.symbol(long).unwrap().address, BASE + 0x600);
}

#[test]
fn bzimage_of_every_compression() {
    let vmlinux = elf_with_kallsyms(&large_kernel(), Layout::Old);
    let packed: [(Compression, Vec<u8>); 7] = [
        (Compression::Gzip, gzip(&vmlinux)),
        (Compression::Xz, xz(&vmlinux)),
        (Compression::Zstd, zstd(&vmlinux)),
        (Compression::Lz4, lz4(&vmlinux)),
        (Compression::Lzma, lzma(&vmlinux)),
        (Compression::Bzip2, bzip2(&vmlinux)),
        (Compression::Lzo, lzo(&vmlinux)),
    ];
    for (compression, packed) in packed {
        // With the appended size, and with a wrong one.
        for size in [vmlinux.len(), 1, u32::MAX as usize] {
            let image = KernelImage::from_bytes(&bzimage(&packed, size)).unwrap();
            assert_eq!((image.kind(), image.compression()), (Kind::BzImage, Some(compression)));
            assert_eq!(symbols(&image), expected(&large_kernel()));
        }
        // The packed vmlinux alone, as guests are given it.
        let image = KernelImage::from_bytes(&packed).unwrap();
        assert_eq!((image.kind(), image.compression()), (Kind::StrippedElf, Some(compression)));
        // Cut in the middle.
        let err = KernelImage::from_bytes(&packed[..packed.len() / 2]).unwrap_err().to_string();
        assert!(err.starts_with(&format!("unpack {compression} payload: ")), "{err}");
    }
}

/// Text and data of 20 MiB each around 40 KiB of constants, in blocks of 8 MiB.
#[test]
fn lz4_blocks_that_nobody_looks_at_stay_packed() {
    const TOO_FAR: [u8; 3] = [0, 0xff, 0xff]; // no literals, a match 64 KiB before the block
    const NEEDED: [usize; 3] = [0, 2, 5]; // the header; constants; the sections' headers and names
    let vmlinux = stripped(&large_kernel(), Layout::New, 20 << 20, 20 << 20);
    let whole = lz4_blocks(&vmlinux);
    for bad in 0..whole.len() {
        let mut blocks = whole.clone();
        blocks[bad][..3].copy_from_slice(&TOO_FAR);
        let image = KernelImage::from_bytes(&bzimage(&lz4_of(&blocks), vmlinux.len()));
        if NEEDED.contains(&bad) {
            let err = image.unwrap_err().to_string();
            assert!(err.starts_with(&format!("unpack lz4 payload: block {bad} is damaged")), "{err}");
        } else {
            let image = image.unwrap();
            assert_eq!(symbols(&image), expected(&large_kernel()));
            assert_eq!(
                (image.version_banner(), image.build_id()),
                (Some(BANNER.trim_end()), Some("deadbeef"))
            );
        }
    }
    // Without names of sections everything is looked at.
    let mut blocks = lz4_blocks(&nameless(vmlinux));
    assert_eq!(symbols(&KernelImage::from_bytes(&lz4_of(&blocks)).unwrap()), expected(&large_kernel()));
    blocks[3][..3].copy_from_slice(&TOO_FAR);
    assert!(error(&lz4_of(&blocks)).starts_with("unpack lz4 payload: block 3 is damaged"));
    blocks[3] = lz4_block(&[1; 100]);
    assert_eq!(
        error(&lz4_of(&blocks)),
        "unpack lz4 payload: block 3 is of 100 bytes: only the last may be below 8 MiB"
    );
}

#[test]
fn damaged_images_say_what_is_wrong() {
    let vmlinux = elf_with_symtab(&kernel(), false);
    let good = bzimage(&gzip(&vmlinux), vmlinux.len());
    let mut old = good.clone();
    old[0x206] = 7;
    let mut arm = vmlinux.clone();
    arm[18] = 0xb7;
    let mut small = vmlinux.clone();
    small[4] = 1;
    let errors = [
        error(b""),
        error(b"hello"),
        error(&[0; 4096]),
        error(&good[..0x900]),
        error(&good[..0x207]),
        error(&good[..0x249]),
        error(&old),
        error(&bzimage(b"no magic", 0)),
        error(&bzimage(&gzip(b"no kernel"), 9)),
        error(&gzip(b"no kernel")),
        error(&vmlinux[..40]),
        error(&vmlinux[..vmlinux.len() - 10]),
        error(&arm),
        error(&small),
        error(&elf_with_symtab(&[(1, 'T', "main")], false)),
        error(&elf_with_symtab(&[], false)),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r"
    empty file
    not a kernel image: neither ELF, bzImage, System.map nor a kallsyms dump (no known magic at its start)
    not a kernel image: neither ELF, bzImage, System.map nor a kallsyms dump (no known magic at its start)
    truncated or damaged bzImage: payload of 694 bytes at offset 2112, file of 2304 bytes
    truncated or damaged bzImage: ends inside its setup header
    truncated or damaged bzImage: ends inside its setup header
    truncated or damaged bzImage: boot protocol 2.07 has no payload; 2.08 needed
    truncated or damaged bzImage: payload of no known compression format
    not a kernel image: neither ELF, bzImage, System.map nor a kallsyms dump (its unpacked payload is not ELF)
    not a kernel image: neither ELF, bzImage, System.map nor a kallsyms dump (its unpacked payload is not ELF)
    truncated or damaged ELF file: ends inside its header
    truncated or damaged ELF file: 7 section headers of 64 bytes at offset 1456, file of 1894 bytes
    not an x86-64 kernel: ELF machine number 183
    not an x86-64 kernel: not a 64-bit little-endian ELF file
    not a Linux kernel: its symbols lack _stext
    no symbols: no kallsyms token table found (is CONFIG_KALLSYMS off, or the image encrypted?)
    ");
}

#[test]
fn limits_bound_what_an_image_costs() {
    let vmlinux = elf_with_kallsyms(&large_kernel(), Layout::New);
    let bomb = gzip(&vec![0; 4 << 20]);
    let within = |data: &[u8], limits| KernelImage::from_bytes_within(data, &limits).unwrap_err().to_string();
    let limits = Limits { unpacked: 1 << 20, ..Limits::default() };
    assert_eq!(within(&bomb, limits), "too large: more than 1048576 bytes unpacked");
    assert_eq!(within(&lz4(&vec![0; 20 << 20]), limits), "too large: more than 1048576 bytes unpacked");
    let text = list(&kernel());
    let limits = Limits { input: 100, ..Limits::default() };
    assert_eq!(within(text.as_bytes(), limits), "too large: more than 100 bytes of input");
    let limits = Limits { symbols: 10, ..Limits::default() };
    assert_eq!(within(text.as_bytes(), limits), "too large: more than 10 symbols");
    assert!(within(&vmlinux, limits).starts_with("no symbols: a kallsyms token table, but no names"));
    let limits = Limits { names: 10, ..Limits::default() };
    for image in [&vmlinux, text.as_bytes()] {
        assert_eq!(within(image, limits), "too large: more than 10 bytes of symbol names");
    }
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no-name-says-what-it-is.txt");
    std::fs::write(&path, elf_with_symtab(&kernel(), false)).unwrap();
    assert_eq!(KernelImage::open(&path).unwrap().kind(), Kind::Elf);
    // Beyond what would fit into memory.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(3 << 30).unwrap();
    assert_eq!(shape(&KernelImage::open(&path).unwrap().ranges(&Catalog::builtin())), SHAPE);
    // Said to be of 0 bytes: read.
    let err = KernelImage::open("/proc/version").unwrap_err().to_string();
    assert!(err.ends_with("(no known magic at its start)"), "{err}");
    std::fs::write(&path, b"").unwrap();
    let err = KernelImage::open(&path).unwrap_err().to_string();
    assert_eq!(err, format!("read kernel image {}: empty file", path.display()));
    let err = KernelImage::open(dir.path()).unwrap_err().to_string();
    assert!(err.ends_with("not a regular file)"), "{err}");
    assert!(KernelImage::open(dir.path().join("absent")).unwrap_err().to_string().contains("No such file"));
}

#[test]
fn a_debug_link_is_followed_to_the_right_file() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("vmlinux");
    let debug = elf_with_symtab(&kernel(), true);
    let mut crc = flate2::Crc::new();
    crc.update(&debug);
    std::fs::create_dir(dir.path().join(".debug")).unwrap();
    for place in ["vmlinux.debug", ".debug/vmlinux.debug"] {
        let place = dir.path().join(place);
        std::fs::write(&place, &debug).unwrap();
        // By build id, whatever the sum says; by the sum, if the image has no build id.
        for (crc, build_id) in [(0, true), (crc.sum(), false)] {
            std::fs::write(&image, gzip(&elf_with_debug_link("vmlinux.debug", crc, build_id))).unwrap();
            let opened = KernelImage::open(&image).unwrap();
            assert_eq!(opened.debug_file(), Some(place.as_path()));
            assert_eq!(
                (opened.kind(), opened.version_banner()),
                (Kind::StrippedElf, Some(BANNER.trim_end()))
            );
            assert_eq!(symbols(&opened), expected(&kernel()));
        }
        std::fs::write(&image, elf_with_debug_link("vmlinux.debug", 1, false)).unwrap();
        let err = KernelImage::open(&image).unwrap_err().to_string();
        assert!(err.contains("no debug file for it") && err.contains("it is of another build"), "{err}");
        std::fs::remove_file(&place).unwrap();
    }
    std::fs::write(&image, elf_with_debug_link("vmlinux.debug", crc.sum(), true)).unwrap();
    let err = KernelImage::open(&image).unwrap_err().to_string();
    assert!(err.contains(".build-id/de/adbeef.debug: No such file"), "{err}");
    assert!(err.contains("/.debug/vmlinux.debug: No such file"), "{err}");
    // Never out of the directory, and never by bytes alone.
    std::fs::write(&image, elf_with_debug_link("../vmlinux.debug", crc.sum(), false)).unwrap();
    for err in [
        KernelImage::open(&image).unwrap_err(),
        KernelImage::from_bytes(&elf_with_debug_link("vmlinux.debug", 0, true)).unwrap_err(),
    ] {
        assert!(err.to_string().contains("no kallsyms token table"), "{err}");
    }
}

#[test]
fn ranges_slide_and_serialize() {
    let image = KernelImage::from_bytes(list(&kernel()).as_bytes()).unwrap();
    let ranges = image.ranges(&Catalog::builtin());
    let moved = ranges.slide(0x1200_0000).unwrap();
    assert_eq!(moved.as_slice()[0].start, BASE + 0x240 + 0x1200_0000);
    assert_eq!(moved.slide(-0x1200_0000).unwrap(), ranges);
    let err = ranges.slide(i64::MAX).unwrap_err().to_string();
    assert!(err.ends_with("would leave the address space"), "{err}");
    assert_eq!(ranges.find(BASE + 0x2ff).unwrap().class, Class::IpiWait);
    assert!(ranges.find(BASE + 0x33f).is_none() && ranges.find(0).is_none());
    let json = serde_json::to_string(&ranges.as_slice()[1]).unwrap();
    assert_eq!(
        json,
        r#"{"start":"0xffffffff81000300","end":"0xffffffff81000330","class":"lock-hold","names":["_raw_spin_unlock","_raw_spin_unlock_irq"]}"#
    );
    assert_eq!(serde_json::from_str::<microslice_symtab::Range>(&json).unwrap(), ranges.as_slice()[1]);
    assert!(serde_json::from_str::<microslice_symtab::Range>(&json.replace("0xff", "ff")).is_err());
}

#[test]
fn aliases_of_two_classes_and_a_users_catalogue() {
    let user = "symbols:
  - {name: fred_sysvec_xen_hvm_callback, class: ipi-serve}
  - {name: smp_call_function_many_cond, class: none}
  - {name: ordinary_work, class: irq}
";
    let catalog = Catalog::builtin().with(Catalog::from_yaml("mine.yaml", user).unwrap());
    let image = KernelImage::from_bytes(list(&kernel()).as_bytes()).unwrap();
    let ranges = image.ranges(&catalog);
    assert!(ranges.find(BASE + 0x240).is_none());
    assert_eq!(ranges.find(BASE + 0x500).unwrap().names, ["ordinary_work"]);
    let merged = ranges.find(BASE + 0x400).unwrap(); // joins its neighbour of the same class
    assert_eq!((merged.start, merged.end, merged.class), (BASE + 0x3a0, BASE + 0x440, Class::IpiServe));
    assert_eq!(ranges.report().shadowed, ["sysvec_xen_hvm_callback (irq)"]);
}

/// A catalogue of its own, so that a new name in the builtin one does not change the golden text.
#[test]
fn report_text() {
    let catalog = "symbols:
  - {name: _raw_spin_lock, class: lock-wait}
  - {name: osq_lock, class: lock-wait}
  - {name: _raw_spin_unlock, class: lock-hold}
  - {name: _raw_spin_unlock_irq, class: lock-hold}
  - {name: smp_call_function_many_cond, class: ipi-wait, since: 5.6}
  - {name: smp_call_function_many_conditionally, class: ipi-wait, since: 6.10}
  - {name: native_flush_tlb_others, class: ipi-wait, until: 5.12}
  - {name: flush_tlb_func, class: ipi-serve}
  - {name: irq_enter, class: irq}
  - {name: sysvec_xen_hvm_callback, class: irq}
  - {name: fred_sysvec_xen_hvm_callback, class: resched}
  - {name: free_one_page, class: page-alloc}
  - {name: a_name_so_long_that_the_list_of_lacking_names_needs_a_second_line_xxxxxxxxxxxxxxxxxxx, class: rwsem-wake}
  - {name: another_name_so_long_that_the_list_needs_a_second_line, class: rwsem-wake}
";
    let catalog = Catalog::from_yaml("test", catalog).unwrap();
    let image = KernelImage::from_bytes(&elf_with_kallsyms(&kernel(), Layout::Old)).unwrap();
    insta::assert_snapshot!(image.ranges(&catalog).report().to_string());
}
