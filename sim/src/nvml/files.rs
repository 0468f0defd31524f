//! What a kernel would show of the cards, as files: the PCI inventory, the driver's version, and the kernel log as a FIFO.
//!
//! ```text
//! DIR/sys/bus/pci/devices/0000:01:00.0/{vendor,device,class,config,current_link_width,...}   as sysfs has them
//! DIR/proc-driver-nvidia-version                                             as /proc/driver/nvidia/version
//! DIR/kmsg                                                                   records as /dev/kmsg gives them
//! ```
//!
//! A card that fell off the bus reads ff in `config`; the kernel keeps `vendor` and `device` from when it found it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags, mkfifoat};

use super::driver::{Driver, pci};
use crate::world::{Presence, World};

const VERSION: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  000.00 simulated\n";
const NAMES: [&str; 9] = [
    "vendor",
    "device",
    "class",
    "subsystem_vendor",
    "subsystem_device",
    "config",
    "current_link_width",
    "max_link_width",
    "current_link_speed",
];
/// Bytes of configuration space that every user may read.
const CONFIG: usize = 64;

/// The files of a rig; gone when it is dropped.
pub(crate) struct Files {
    dir: PathBuf,
    /// What was written last: whether it is there, and its lanes.
    shown: Vec<(bool, i64)>,
    kmsg: Option<File>,
    sequence: u64,
    /// The last record was lost.
    full: bool,
}

impl Files {
    /// Writes them all.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let mut files = Self { dir: dir.to_owned(), shown: Vec::new(), kmsg: None, sequence: 0, full: false };
        files.remove();
        fs::write(files.version(), VERSION).with_context(|| format!("write {}", files.version().display()))?;
        let path = files.log();
        mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600))
            .with_context(|| format!("make the FIFO {}", path.display()))?;
        // Both ways: it is never without a reader, so a write does not fail, and never without a writer, so readers do not
        // see its end. Non-blocking: a log that nobody reads must not hold up the rig.
        let fifo = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        files.kmsg = Some(File::from(fifo.with_context(|| format!("open {}", path.display()))?));
        Ok(files)
    }

    /// Shows what is true now.
    pub(crate) fn show(&mut self, driver: &mut Driver, world: &World) {
        for (index, gpu) in world.gpus.iter().enumerate() {
            let now = (gpu.presence == Presence::There, driver.width(index));
            if self.shown.get(index) == Some(&now) {
                continue;
            }
            match self.write_card(index, gpu.profile.pci_device, gpu.profile.pci_subsystem, gpu.profile.pcie, now) {
                Ok(()) => match self.shown.get_mut(index) {
                    Some(shown) => *shown = now,
                    None => self.shown.push(now),
                },
                Err(error) => log::warn!("simulated rig: {}: {error}", pci(index)),
            }
        }
        let micros = world.time().as_micros();
        for line in driver.take_log() {
            let record = format!("6,{},{micros},-;{line}\n", self.sequence);
            self.sequence += 1;
            // What does not fit is lost, as it is from a ring buffer that is full.
            let full = self.kmsg.as_ref().is_some_and(|mut kmsg| kmsg.write_all(record.as_bytes()).is_err());
            if full && !std::mem::replace(&mut self.full, full) {
                log::warn!("simulated rig: nobody reads the kernel log; lost from here on: {line}");
            }
            self.full = full;
        }
    }

    fn write_card(
        &self,
        index: usize,
        id: u32,
        subsystem: u32,
        generation: u32,
        (there, width): (bool, i64),
    ) -> Result<()> {
        let dir = self.card(index);
        fs::create_dir_all(&dir)?;
        let (device, vendor) = (id >> 16, id & 0xffff);
        let mut config = [0_u8; CONFIG];
        for (byte, value) in
            config.iter_mut().zip([vendor.to_le_bytes(), device.to_le_bytes()].iter().flat_map(|id| id.iter().take(2)))
        {
            *byte = *value;
        }
        let speed =
            ["2.5", "5.0", "8.0", "16.0", "32.0"].get(usize::try_from(generation)?.saturating_sub(1)).unwrap_or(&"2.5");
        let gone = |text: String, without: &str| if there { text } else { without.to_owned() };
        let contents: [Vec<u8>; NAMES.len()] = [
            format!("{vendor:#06x}\n").into(),
            format!("{device:#06x}\n").into(),
            "0x030000\n".into(),
            format!("{:#06x}\n", subsystem & 0xffff).into(),
            format!("{:#06x}\n", subsystem >> 16).into(),
            if there { config.to_vec() } else { vec![0xff; CONFIG] },
            // All ones in the link's status: what the kernel makes of a device that does not answer.
            gone(format!("{width}\n"), "63\n").into(),
            "16\n".into(),
            gone(format!("{speed} GT/s PCIe\n"), "Unknown\n").into(),
        ];
        for (name, content) in NAMES.iter().zip(contents) {
            // Never half a file: readers see the old or the new one.
            let (path, new) = (dir.join(name), dir.join(format!(".{name}")));
            fs::write(&new, content)?;
            fs::rename(new, path)?;
        }
        Ok(())
    }

    fn devices(&self) -> PathBuf {
        self.dir.join("sys/bus/pci/devices")
    }

    fn version(&self) -> PathBuf {
        self.dir.join("proc-driver-nvidia-version")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("kmsg")
    }

    fn card(&self, index: usize) -> PathBuf {
        self.devices().join(pci(index))
    }

    /// Removes what such a rig writes, and nothing else.
    fn remove(&self) {
        for index in 0..crate::world::card::MAX_CARDS {
            let dir = self.card(index);
            for name in NAMES {
                fs::remove_file(dir.join(name)).ok();
            }
            fs::remove_dir(dir).ok();
        }
        fs::remove_dir_all(self.dir.join("sys")).ok();
        fs::remove_file(self.version()).ok();
        let is_fifo =
            |path: &Path| rustix::fs::lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_fifo());
        if is_fifo(&self.log()) {
            fs::remove_file(self.log()).ok();
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.remove();
    }
}
