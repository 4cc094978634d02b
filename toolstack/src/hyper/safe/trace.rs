// SPDX-License-Identifier: GPL-3.0-only
//! A trace: the state of a group of a cpupool's pCPUs, and every event and decision since. There is one for each group; whoever
//! starts a second one ends the first.

use super::call::{Buffer, SysctlUnion};
use super::error::{Error, Object, Op};
use super::types::Pool;
use super::{Xen, raw};
use microslice_core::Record;

/// Records that one hypercall brings.
const BATCH: usize = 4096;

/// A running trace. Xen drops it with this value.
pub struct Trace<'a> {
    xen: &'a Xen,
    pool: u32,
    group: u32,
    object: Object,
    /// Version of state and records.
    pub abi: u32,
    /// What the scheduler was when the trace began.
    pub state: Vec<u8>,
    batch: Buffer<'a, raw::xen_sysctl_microslice_record>,
}

impl Xen {
    /// Starts a trace of a group of `pool`, with room for so many records in Xen.
    pub fn trace(&self, pool: &Pool, group: u32, room: u32) -> Result<Trace<'_>, Error> {
        let object = Object::Pool(pool.id, pool.name.clone());
        let fail = |e| self.fail(Op::Trace, object.clone(), e);
        let start = raw::xen_sysctl_microslice_trace {
            op: raw::XEN_SYSCTL_MICROSLICE_TRACE_START,
            group,
            nr: room,
            ..Default::default()
        };
        let size = self.trace_op(pool.id, start).map_err(fail)?.state_size;
        let mut state = self.call.buffer::<u8>(size as usize).map_err(fail)?;
        let batch = self.call.buffer(BATCH).map_err(fail)?;
        let mut start = raw::xen_sysctl_microslice_trace { state_size: size, ..start };
        start.state.p = state.handle();
        let abi = self.trace_op(pool.id, start).map_err(fail)?.abi;
        let state = state.as_mut_slice().to_vec();
        Ok(Trace { xen: self, pool: pool.id, group, object, abi, state, batch })
    }

    fn trace_op(
        &self,
        pool: u32,
        op: raw::xen_sysctl_microslice_trace,
    ) -> Result<raw::xen_sysctl_microslice_trace, i32> {
        let mut u = SysctlUnion { microslice_trace: op };
        self.call.sysctl(pool, raw::XEN_SYSCTL_SCHEDOP_microslice_trace, &mut u)?;
        // SAFETY: the member this sub-command returns; any bits are valid.
        Ok(unsafe { u.microslice_trace })
    }
}

/// What a look at a trace brought.
pub struct Batch {
    /// The oldest records.
    pub records: Vec<Record>,
    /// There may be more already.
    pub more: bool,
    /// A record after these did not fit: the trace is over.
    pub lost: bool,
}

impl Trace<'_> {
    /// Moves some records out of Xen.
    pub fn read(&mut self) -> Result<Batch, Error> {
        let mut read = raw::xen_sysctl_microslice_trace {
            op: raw::XEN_SYSCTL_MICROSLICE_TRACE_READ,
            group: self.group,
            nr: BATCH as u32,
            ..Default::default()
        };
        read.records.p = self.batch.handle();
        let done = self
            .xen
            .trace_op(self.pool, read)
            .map_err(|e| self.xen.fail(Op::Trace, self.object.clone(), e))?;
        let raw = self.batch.as_mut_slice().iter().take(done.nr as usize);
        let records: Vec<Record> = raw
            .map(|r| Record {
                now: r.now,
                x: r.x,
                y: r.y,
                a: r.a,
                b: r.b,
                digest: r.digest,
                id: r.id,
                run: r.run,
                kind: r.kind,
                class: r.service,
                flags: r.flags,
                pad: r.pad,
                seq: r.seq,
            })
            .collect();
        Ok(Batch { more: records.len() == BATCH, lost: done.lost != 0, records })
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        let stop = raw::xen_sysctl_microslice_trace {
            op: raw::XEN_SYSCTL_MICROSLICE_TRACE_STOP,
            group: self.group,
            ..Default::default()
        };
        // Nothing to be done if it fails: Xen drops a trace with its cpupool.
        let _ = self.xen.trace_op(self.pool, stop);
    }
}
