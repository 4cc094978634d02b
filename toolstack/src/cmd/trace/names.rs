// SPDX-License-Identifier: GPL-3.0-only
//! Names for what a trace has numbers of: its units are vCPUs of guests, and where one was is code of its kernel.
//!
//! Which vCPU a unit is, records say; the guests were noted when the recording began. A unit that no record has named so
//! far, or a guest without a file of symbols, keeps its number.

use crate::hyper::safe::Xen;
use crate::hyper::safe::types::{Kind, Pool};
use crate::rangefile::{Address, flat};
use anyhow::{Result, bail, ensure};
use microslice_core::{Class, Record};
use microslice_symtab::KernelImage;
use microslice_symtab::kaslr::{Anchors, Live};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

/// A domain of the cpupool, as it was when the recording began.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    domid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// vCPU 0's MSR_LSTAR, which tells how far the kernel is from where it was linked; none of a PV guest, or of one that
    /// had not booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lstar: Option<Address>,
}

impl Guest {
    /// The guests of a cpupool. One that goes meanwhile is left out.
    pub fn of(xen: &Xen, pool: &Pool) -> Result<Vec<Guest>> {
        let domains = xen.domains()?.into_iter().filter(|domain| domain.pool == pool.id);
        let guest = |domain: crate::hyper::safe::types::Domain| {
            let lstar = (domain.kind == Kind::Hvm).then(|| xen.lstar(&domain).ok()).flatten();
            let lstar = lstar.filter(|lstar| *lstar != 0).map(Address);
            Guest { domid: domain.id, name: domain.name, lstar }
        };
        Ok(domains.map(guest).collect())
    }

    fn named(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.domid.to_string())
    }

    /// How far its kernel is from where `image` has it, in bytes.
    fn slide(&self, image: &KernelImage) -> Result<u64, String> {
        let Some(lstar) = self.lstar else { return Ok(0) };
        let live = Live { lstar: lstar.0, page_fault: None };
        Anchors::of(image).slide(live).map(|slide| slide.bytes).map_err(|e| e.to_string())
    }
}

/// A kernel's symbols, and how far the kernel is from them.
struct Kernel {
    image: Rc<KernelImage>,
    slide: u64,
}

/// See the module.
#[derive(Default)]
pub struct Names {
    guests: Vec<Guest>,
    /// Domain and vCPU of a unit.
    units: HashMap<u16, (u16, u16)>,
    kernels: HashMap<u32, Kernel>,
}

impl Names {
    /// With the guests that a trace has noted.
    pub fn new(guests: Vec<Guest>) -> Names {
        Names { guests, ..Names::default() }
    }

    /// Notes who a record is about; what was known of that unit before gives way, unless this is only to be the `first` word.
    pub fn note(&mut self, record: &Record, first: bool) {
        let Some((unit, vcpu)) = record.vcpu() else { return };
        if first {
            self.units.entry(unit).or_insert(vcpu);
        } else {
            self.units.insert(unit, vcpu);
        }
    }

    /// A unit: "d2v1", or "unit 5" if no record has said which vCPU that is.
    pub fn who(&self, unit: u16) -> String {
        match self.units.get(&unit) {
            Some((domain, vcpu)) => format!("d{domain}v{vcpu}"),
            None => format!("unit {unit}"),
        }
    }

    /// The same with the domain's name, where that is known: "web v1".
    pub fn whose(&self, unit: u16) -> String {
        let guest = |domain: u16| self.guests.iter().find(|guest| guest.domid == u32::from(domain));
        let named = |(domain, vcpu): &(u16, u16)| Some(format!("{} v{vcpu}", guest(*domain)?.name.as_ref()?));
        self.units.get(&unit).and_then(named).unwrap_or_else(|| self.who(unit))
    }

    /// " in queued_spin_lock_slowpath+0x1a (lock-wait)", as much of it as is known; empty of user mode and of what was not looked at.
    pub fn place(&self, unit: u16, rip: u64, class: Class) -> String {
        let class = (class != Class::None).then(|| super::class_words(class));
        match (self.symbol(unit, rip), class) {
            (Some(symbol), Some(class)) => format!(" in {symbol} ({class})"),
            (Some(symbol), None) => format!(" in {symbol}"),
            (None, Some(class)) if rip != 0 => format!(" in {class} at {rip:#x}"),
            (None, Some(class)) => format!(" in {class}"),
            (None, None) if rip != 0 => format!(" at {rip:#x}"),
            (None, None) => String::new(),
        }
    }

    /// Symbol and offset of an address in the kernel that a unit runs.
    pub fn symbol(&self, unit: u16, rip: u64) -> Option<String> {
        let (domain, _) = self.units.get(&unit)?;
        let kernel = self.kernels.get(&u32::from(*domain))?;
        // Per-CPU variables have symbols from 0 on.
        let address = (rip != 0).then(|| rip.checked_sub(kernel.slide))??;
        let symbol = kernel.image.symbols_at(address).next()?;
        Some(match address - symbol.address {
            0 => symbol.name.to_owned(),
            offset => format!("{}+{offset:#x}", symbol.name),
        })
    }

    /// Takes in `[DOMAIN=]FILE`: the symbols of a domain's kernel, or of all whose kernel it can be.
    pub fn symbols(&mut self, text: &str) -> Result<()> {
        let (domain, file) = match text.split_once('=') {
            Some((domain, file)) if !domain.contains('/') => (Some(domain), file),
            _ => (None, text),
        };
        let image = Rc::new(KernelImage::open(Path::new(file)).map_err(flat)?);
        let known = || self.guests.iter().map(Guest::named).collect::<Vec<_>>().join(", ");
        let (mut fits, mut why) = (Vec::new(), Vec::new());
        for guest in &self.guests {
            let asked =
                domain.is_some_and(|d| guest.name.as_deref() == Some(d) || guest.domid.to_string() == d);
            // A PV guest's kernel can be any: it must be asked for.
            if asked || (domain.is_none() && guest.lstar.is_some()) {
                match guest.slide(&image) {
                    Ok(slide) => fits.push((guest.domid, slide)),
                    Err(error) => why.push(format!("{}: {error}", guest.named())),
                }
            }
        }
        if let Some(domain) = domain {
            let found = !fits.is_empty() || !why.is_empty();
            ensure!(found, "symbols {text}: the trace has no domain '{domain}', but {}", known());
        }
        if fits.is_empty() {
            let why = if why.is_empty() {
                format!("none of {} has said where it is", known())
            } else {
                why.join("; ")
            };
            bail!("symbols {text}: not of the kernel that a domain of the trace runs: {why}");
        }
        for (domain, slide) in fits {
            self.kernels.insert(domain, Kernel { image: Rc::clone(&image), slide });
        }
        Ok(())
    }
}
