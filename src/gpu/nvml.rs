//! NVML, called: what `rigd-nvml` is made of. Nothing outside of this folder names the crate that wraps it.
//!
//! Reading order: `code` (return codes, and the functions that the crate leaves raw), `fields` (many values in one call), then
//! what is asked of a GPU: `inventory`, `sample`, `settings`, `fans`, `processes`, `selftest`; then `xid`, [`serve`], [`pipes`].
//!
//! # Which function
//!
//! The crate's methods, but for these (read in nvml-wrapper 0.13.0 and in NVIDIA's `nvml.h` 13.5):
//!
//! - Its temperature and its clock reasons use functions that drivers will drop, and cut unknown bits off: their successors
//!   are asked first, and by hand.
//! - Its field values lose signs and the upper half of 64-bit numbers and renumber some ids: `nvmlDeviceGetFieldValues` by hand.
//! - Where it turns a value into an enumeration, a value that it does not know comes back like a return code: architecture,
//!   performance state and fan policy by hand.
//! - It frees a set of events when one GPU cannot be added to it: by hand.
//! - Dropping its `Nvml` or `EventSet` panics where the library lacks a function: neither is ever dropped.
//!
//! Supported clocks are never asked for: one driver brings the GPU down over it. Nor is the PCIe throughput, which blocks
//! for 20 ms.

mod code;
mod fans;
mod fields;
mod inventory;
pub mod pipes;
mod processes;
mod sample;
mod selftest;
pub mod serve;
mod settings;
mod xid;

use std::path::Path;

use log::{error, info};
use nvml_wrapper::Device;
use nvml_wrapper_sys::bindings::nvmlDevice_t;

use self::code::{code, raw};
use super::wire::{Code, PciAddress, Read, Versions};

/// More GPUs than any mainboard holds; what a library counts beyond is not asked.
const MOST_GPUS: u32 = 64;

/// The loaded library, brought up. It stays for the rest of the process.
#[derive(Clone, Copy)]
pub struct Nvml(&'static nvml_wrapper::Nvml);

impl Nvml {
    /// Loads the library, the driver's own where no other is named, and brings it up: seconds per GPU where the driver was
    /// not loaded.
    ///
    /// # Errors
    /// The driver's own code, [`Code::LIBRARY_NOT_FOUND`], or [`Code::FUNCTION_NOT_FOUND`] where it is no NVML.
    pub fn load(library: Option<&Path>) -> Read<Self> {
        let mut builder = nvml_wrapper::Nvml::builder();
        if let Some(library) = library {
            builder.lib_path(library.as_os_str());
        }
        match builder.init() {
            Ok(nvml) => Ok(Self(Box::leak(Box::new(nvml)))),
            Err(error) => {
                error!("NVML: {error}");
                Err(code(error))
            }
        }
    }

    /// What was loaded.
    #[must_use]
    pub fn versions(self) -> Versions {
        let unknown = || "unknown".to_owned();
        Versions {
            driver: self.0.sys_driver_version().unwrap_or_else(|_| unknown()),
            nvml: self.0.sys_nvml_version().unwrap_or_else(|_| unknown()),
        }
    }

    fn count(self) -> Read<u32> {
        let count = self.0.device_count().map_err(code)?;
        Ok(count.min(MOST_GPUS))
    }

    /// Only to find out which there are: the index of a GPU moves when another is lost.
    fn by_index(self, index: u32) -> Read<Gpu> {
        Ok(Gpu { nvml: self, device: self.0.device_by_index(index).map_err(code)? })
    }

    fn by_address(self, pci: PciAddress) -> Read<Gpu> {
        Ok(Gpu { nvml: self, device: self.0.device_by_pci_bus_id(pci.to_string()).map_err(code)? })
    }

    /// Every GPU that can be reached.
    fn reachable(self) -> impl Iterator<Item = Gpu> {
        (0..self.count().unwrap_or(0)).filter_map(move |index| self.by_index(index).ok())
    }

    /// Lets go of the driver. Nothing may be called afterwards.
    fn shut_down(self) {
        match raw!(self, nvmlShutdown()) {
            Ok(()) => info!("let go of NVML"),
            Err(code) => error!("let go of NVML: {code}"),
        }
    }
}

/// A GPU that NVML knows.
struct Gpu {
    nvml: Nvml,
    device: Device<'static>,
}

impl Gpu {
    fn handle(&self) -> nvmlDevice_t {
        // SAFETY: the function only copies a number; that number is handed to nothing but the library it came from.
        unsafe { self.device.handle() }
    }

    fn address(&self) -> Read<PciAddress> {
        let pci = self.device.pci_info().map_err(code)?;
        let byte = |number: u32| u8::try_from(number).map_err(|_| Code::UNKNOWN);
        Ok(PciAddress { domain: pci.domain, bus: byte(pci.bus)?, device: byte(pci.device)? })
    }
}
