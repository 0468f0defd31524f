//! Xids: what the driver tells of a GPU by itself. A thread of its own waits for them, in one set for all GPUs.
//!
//! The last Xid of a GPU is the one that is told, however many there were (nvml.h); the kernel's log has them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use log::{debug, warn};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlEventTypeXidCriticalError};

use super::code::raw;
use super::{Gpu, Nvml};
use crate::clock;
use crate::gpu::wire::{Code, Message, PciAddress, Read};

/// How long one wait takes: the end of the process waits for no more than this.
const WAIT_MS: u32 = 1_000;
/// One number of one GPU is told again after so long; the agent takes what comes within five times that for one event.
const SAME: Duration = Duration::from_secs(1);
/// Pause before a set that fails is made anew, without the GPU that was lost.
const PAUSE: Duration = Duration::from_secs(5);
const XID: u64 = nvmlEventTypeXidCriticalError as u64;

/// Tells each Xid until `stop`, or until no GPU can tell any.
pub(super) fn watch(nvml: Nvml, stop: &Arc<AtomicBool>, tell: impl Fn(&Message)) {
    let mut failed = false;
    while !stop.load(Ordering::Relaxed) {
        let Some(set) = Set::new(nvml) else {
            debug!("no GPU tells of Xids; the kernel's log does");
            return;
        };
        let Err(code) = set.watch(stop, &tell) else { return };
        if !std::mem::replace(&mut failed, true) {
            warn!("waiting for Xids: {code}; again without the GPUs that are lost");
        }
        set.free();
        thread::park_timeout(PAUSE);
    }
}

/// A set of events, and the GPUs that are in it. Freed by [`Set::free`] or by the end of the process.
struct Set {
    nvml: Nvml,
    set: nvmlEventSet_t,
    gpus: Vec<(Gpu, Option<PciAddress>)>,
}

impl Set {
    /// `None` where no GPU can be added: none supports it, or the library does not know such sets.
    fn new(nvml: Nvml) -> Option<Self> {
        let mut set: nvmlEventSet_t = std::ptr::null_mut();
        raw!(nvml, nvmlEventSetCreate(&raw mut set)).ok()?;
        let mut gpus = Vec::new();
        for gpu in nvml.reachable() {
            // NOT_SUPPORTED leaves the set as it was (nvml.h) and says that this GPU cannot tell, not that it is ill.
            match register(&gpu, set) {
                Ok(()) => {
                    let address = gpu.address().ok();
                    gpus.push((gpu, address));
                }
                Err(code) => debug!("a GPU tells no Xids: {code}"),
            }
        }
        let new = Self { nvml, set, gpus };
        if new.gpus.is_empty() {
            new.free();
            return None;
        }
        Some(new)
    }

    fn watch(&self, stop: &AtomicBool, tell: &impl Fn(&Message)) -> Read<()> {
        let mut last = None;
        while !stop.load(Ordering::Relaxed) {
            match self.wait() {
                // A flood of one number must not take the place of answers.
                Ok((handle, code))
                    if last.is_some_and(|(told, when)| told == (handle, code) && when + SAME > clock::now()) => {}
                Ok((handle, code)) => {
                    last = Some(((handle, code), clock::now()));
                    tell(&Message::Xid { gpu: self.address(handle), code });
                }
                Err(Code::TIMEOUT) => {}
                Err(code) => return Err(code),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Read<(nvmlDevice_t, u64)> {
        let nvml = self.nvml;
        let mut data = nvmlEventData_t {
            device: std::ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: 0,
            computeInstanceId: 0,
        };
        raw!(nvml, nvmlEventSetWait_v2(self.set, &raw mut data, WAIT_MS))?;
        // Nothing else was asked for.
        if data.eventType == XID { Ok((data.device, data.eventData)) } else { Err(Code::TIMEOUT) }
    }

    fn address(&self, handle: nvmlDevice_t) -> Option<PciAddress> {
        self.gpus.iter().find(|(gpu, _)| gpu.handle() == handle).and_then(|(_, address)| *address)
    }

    fn free(self) {
        let nvml = self.nvml;
        if let Err(code) = raw!(nvml, nvmlEventSetFree(self.set)) {
            debug!("free a set of events: {code}");
        }
    }
}

fn register(gpu: &Gpu, set: nvmlEventSet_t) -> Read<()> {
    let (nvml, mut supported) = (gpu.nvml, 0);
    raw!(nvml, nvmlDeviceGetSupportedEventTypes(gpu.handle(), &raw mut supported))?;
    if supported & XID == 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    raw!(nvml, nvmlDeviceRegisterEvents(gpu.handle(), XID, set))
}
