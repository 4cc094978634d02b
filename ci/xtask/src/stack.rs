// SPDX-License-Identifier: GPL-3.0-only
//! How much stack an object's functions take, one by one and down the deepest chain of calls. Xen's stacks are small, and an
//! interrupt may come on top; a function that may call itself has no bound at all.
//!
//! A frame is counted as the return address, all pushes and all subtractions from RSP of the function, whether or not they
//! come on one path: never too small. Functions outside of the object count as nothing.

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::read::elf::ElfFile64;
use object::{
    Object, ObjectSection, ObjectSymbol, Relocation, RelocationTarget, SectionIndex, SectionKind, SymbolKind,
};
use std::collections::HashMap;

/// Largest frame of one function, bytes.
const LARGEST: u64 = 768;
/// Most stack for a call of an entry point, bytes. A pCPU of Xen has 32 KiB, of which its entry stacks take most.
const DEEPEST: u64 = 2048;

/// A function of the object.
struct Function {
    name: String,
    section: SectionIndex,
    start: u64,
    end: u64,
    frame: u64,
    calls: Vec<usize>,
}

/// The largest frame and the deepest chain of calls, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stack {
    /// Of one function.
    pub frame: u64,
    /// From an entry point down.
    pub depth: u64,
}

/// Measures, and adds what is wrong to `faults`.
///
/// # Errors
/// If the object cannot be read.
pub fn check(file: &ElfFile64<'_, object::Endianness>, faults: &mut Vec<String>) -> Result<Stack> {
    let mut functions = functions(file);
    for i in 0..functions.len() {
        let (frame, calls) = look(file, &functions, i, faults)?;
        if let Some(f) = functions.get_mut(i) {
            (f.frame, f.calls) = (frame, calls);
        }
    }
    let mut known = HashMap::new();
    let mut stack = Stack::default();
    for (i, f) in functions.iter().enumerate() {
        stack.frame = stack.frame.max(f.frame);
        if f.frame > LARGEST {
            faults.push(format!("stack frame of {} bytes, the most is {LARGEST}: {}", f.frame, f.name));
        }
        stack.depth = stack.depth.max(depth(&functions, i, &mut Vec::new(), &mut known, faults));
    }
    if stack.depth > DEEPEST {
        faults.push(format!("calls {} bytes deep, the most is {DEEPEST}", stack.depth));
    }
    Ok(stack)
}

fn functions(file: &ElfFile64<'_, object::Endianness>) -> Vec<Function> {
    let mut list: Vec<Function> = file
        .symbols()
        .filter(|s| s.kind() == SymbolKind::Text && !s.is_undefined())
        .filter_map(|s| {
            let (section, start) = (s.section_index()?, s.address());
            let name = s.name().unwrap_or("(not UTF-8)").to_owned();
            Some(Function { name, section, start, end: start + s.size(), frame: 0, calls: Vec::new() })
        })
        .collect();
    list.sort_by_key(|f| (f.section.0, f.start));
    list.dedup_by_key(|f| (f.section.0, f.start));
    list
}

fn at(functions: &[Function], section: SectionIndex, address: u64) -> Option<usize> {
    let inside = |f: &Function| f.section == section && (f.start..f.end.max(f.start + 1)).contains(&address);
    functions.iter().position(inside)
}

/// Frame and callees of function `i`.
fn look(
    file: &ElfFile64<'_, object::Endianness>,
    functions: &[Function],
    i: usize,
    faults: &mut Vec<String>,
) -> Result<(u64, Vec<usize>)> {
    let Some(f) = functions.get(i) else { return Ok((0, Vec::new())) };
    let section = file.section_by_index(f.section).with_context(|| format!("section of {}", f.name))?;
    if section.kind() != SectionKind::Text {
        return Ok((0, Vec::new()));
    }
    let data = section.data().with_context(|| format!("code of {}", f.name))?;
    let relocations: HashMap<u64, Relocation> = section.relocations().collect();
    let code = usize::try_from(f.start).ok().zip(usize::try_from(f.end).ok());
    let code = code.and_then(|(from, to)| data.get(from..to)).unwrap_or_default();
    let mut decoder = Decoder::with_ip(64, code, f.start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let (mut frame, mut calls) = (8, Vec::new());
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let rsp = instruction.op0_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::Push => frame += 8,
            Mnemonic::Sub if rsp => match instruction.op1_kind() {
                OpKind::Immediate8to64 | OpKind::Immediate32to64 => frame += instruction.immediate(1),
                _ => faults.push(format!("stack frame of unknown size: {}", f.name)),
            },
            Mnemonic::And if rsp => frame += 64,
            _ => {}
        }
        if instruction.memory_base() == Register::RSP && instruction.memory_displacement64().cast_signed() < 0
        {
            faults.push(format!("red zone, which Xen's interrupts write over: {}", f.name));
        }
        let goes = matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
        );
        if goes {
            let field = instruction.next_ip().wrapping_sub(4);
            let to = match relocations.get(&field) {
                Some(r) => target(file, functions, r),
                None => at(functions, f.section, instruction.near_branch_target()),
            };
            let call = instruction.flow_control() == FlowControl::Call;
            // A jump inside the function is none of ours; one to another function is a call that does not return here.
            calls.extend(to.filter(|to| call || *to != i));
        }
    }
    calls.sort_unstable();
    calls.dedup();
    Ok((frame, calls))
}

fn target(file: &ElfFile64<'_, object::Endianness>, functions: &[Function], r: &Relocation) -> Option<usize> {
    // The field is relative to its own end.
    let addend = r.addend().wrapping_add(4).cast_unsigned();
    match r.target() {
        RelocationTarget::Symbol(s) => {
            let s = file.symbol_by_index(s).ok()?;
            at(functions, s.section_index()?, s.address().wrapping_add(addend))
        }
        RelocationTarget::Section(s) => at(functions, s, addend),
        _ => None,
    }
}

/// Bytes that a call of function `i` takes.
fn depth(
    functions: &[Function],
    i: usize,
    chain: &mut Vec<usize>,
    known: &mut HashMap<usize, u64>,
    faults: &mut Vec<String>,
) -> u64 {
    let name = |i: &usize| functions.get(*i).map_or("", |f| &*f.name);
    if let Some(from) = chain.iter().position(|f| *f == i) {
        let turn: Vec<&str> = chain.iter().skip(from).chain([&i]).map(name).collect();
        faults.push(format!("recursion: {}", turn.join(" -> ")));
        return 0;
    }
    if let Some(depth) = known.get(&i) {
        return *depth;
    }
    let Some(f) = functions.get(i) else { return 0 };
    chain.push(i);
    let below = f.calls.iter().map(|c| depth(functions, *c, chain, known, faults)).max().unwrap_or(0);
    chain.pop();
    known.insert(i, f.frame + below);
    f.frame + below
}
