//! The NVIDIA cards that the PCI bus has, by sysfs alone: what NVML must show, and what is wrong with one that it does not.
//!
//! A card that fell off the bus stays in sysfs: the kernel keeps vendor and class from when it found it, and only what is
//! read from the card itself turns to ones (PCI's answer when nobody answers). One that the kernel took away, or did not
//! find at boot, is missing by its address. Files and forms: Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/pci-sysfs.c
//! of Linux; the kernel answers a read of a dead card after the bus's completion time-out, some 50 ms at most. A read wakes
//! a card that sleeps.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::wire::PciAddress;
use crate::sorted;

/// Most entries of the bus that are looked at, and most cards taken: a rig has a hundred or two, and a dozen. The rest is
/// left out.
const MOST_DEVICES: usize = 1024;
const MOST_CARDS: usize = 64;
/// Longest attribute that is read.
const LONGEST: u64 = 1024;

/// NVIDIA's vendor number.
const VENDOR: &str = "0x10de";
/// Class of a VGA controller and of a 3D controller, without the programming interface. A card's sound has another.
const CLASSES: [&str; 2] = ["0x0300", "0x0302"];

/// A card on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Where it sits.
    pub pci: PciAddress,
    /// It answers nothing: its configuration reads as ones.
    pub dead: bool,
    /// Which kernel driver has it; `None`: no driver, so NVIDIA's did not get it to work.
    pub driver: Option<String>,
    /// Name in sysfs of the port that it is plugged into, as `0000:00:01.1`; `None` where there is none above it.
    pub port: Option<String>,
    /// Its link; `None` where the kernel does not tell.
    pub link: Link,
    /// Errors on that link; `None` where the kernel does not count them.
    pub errors: Option<Errors>,
}

/// Errors that a card and the port above it have found on their link since the kernel knows them: a bad riser shows here
/// before a card falls off. Counted by the kernel's AER driver, so only where firmware leaves that to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// Put right by the link itself.
    pub corrected: u64,
    /// Not put right, fatal or not.
    pub uncorrected: u64,
}

/// A PCIe link: generation 1 to 7, lanes 1 to 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Generation now; lower than the highest at rest.
    pub generation: Option<u8>,
    /// Highest generation of the card.
    pub max_generation: Option<u8>,
    /// Lanes now.
    pub width: Option<u8>,
    /// Most lanes of the card.
    pub max_width: Option<u8>,
}

/// The cards on the bus, by their address; `sysfs` is `/sys` or what stands in its place.
///
/// # Errors
///
/// Where the bus cannot be listed. A bus without PCI (`NotFound`) has no cards.
pub fn cards(sysfs: &Path) -> io::Result<Vec<Card>> {
    let entries = match fs::read_dir(sysfs.join("bus/pci/devices")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let devices = entries.take(MOST_DEVICES).filter_map(Result::ok).map(|entry| entry.path());
    let cards = devices.filter_map(|path| card(&path)).take(MOST_CARDS);
    Ok(sorted::list_by(cards, |a, b| a.pci.cmp(&b.pci)))
}

fn card(path: &Path) -> Option<Card> {
    // Anything but function 0 is no address of a GPU.
    let pci = path.file_name()?.to_str()?.parse().ok()?;
    let text = |name: &str| attribute(&path.join(name)).ok();
    let class = text("class")?;
    if text("vendor")? != VENDOR || !CLASSES.iter().any(|wanted| class.starts_with(wanted)) {
        return None;
    }
    let dead = is_dead(&path.join("config"));
    let last = |link: &Path| Some(link.file_name()?.to_str()?.to_owned());
    // The device is a link to its place in the tree: its parent there is the port, named like any device.
    let port = fs::read_link(path).ok().and_then(|place| last(place.parent()?)).filter(|name| name.contains('.'));
    let driver = fs::read_link(path.join("driver")).ok().and_then(|place| last(&place));
    let speed = |name| text(name).and_then(|text| generation(&text));
    let lanes = |name| text(name).and_then(|text| text.parse().ok()).filter(|lanes| (1..=32).contains(lanes));
    let link = Link {
        // Of a dead card these are ones too, or what was.
        generation: speed("current_link_speed").filter(|_| !dead),
        max_generation: speed("max_link_speed"),
        width: lanes("current_link_width").filter(|_| !dead),
        max_width: lanes("max_link_width"),
    };
    let ends = [Some(path.to_owned()), port.as_ref().and_then(|port| Some(path.parent()?.join(port)))];
    let errors = ends.iter().flatten().filter_map(|end| errors(end)).reduce(|one, other| Errors {
        corrected: one.corrected.saturating_add(other.corrected),
        uncorrected: one.uncorrected.saturating_add(other.uncorrected),
    });
    Some(Card { pci, dead, driver, port, link, errors })
}

/// What one end of a link has found (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats): a line for each kind, then a total.
fn errors(device: &Path) -> Option<Errors> {
    let total = |file: &str, name: &str| -> Option<u64> {
        let text = attribute(&device.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let fatal = total("aer_dev_fatal", "TOTAL_ERR_FATAL")?;
    let other = total("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL")?;
    Some(Errors { corrected: total("aer_dev_correctable", "TOTAL_ERR_COR")?, uncorrected: fatal.saturating_add(other) })
}

/// Whether vendor and device number read as ones. A configuration that cannot be read says nothing of the card: for one that
/// is cut off the kernel too gives ones.
fn is_dead(config: &Path) -> bool {
    let mut identity = [0; 4];
    File::open(config).and_then(|mut file| file.read_exact(&mut identity)).is_ok() && identity == [0xff; 4]
}

/// PCIe generation of a speed: "8.0 GT/s PCIe", before Linux 5.8 "8 GT/s", and "Unknown".
fn generation(speed: &str) -> Option<u8> {
    match speed.split_once(" GT/s")?.0 {
        "2.5" => Some(1),
        "5" | "5.0" => Some(2),
        "8" | "8.0" => Some(3),
        "16" | "16.0" => Some(4),
        "32" | "32.0" => Some(5),
        "64" | "64.0" => Some(6),
        "128" | "128.0" => Some(7),
        _ => None,
    }
}

/// A short text file, at most [`LONGEST`] of it, without white space at its end.
fn attribute(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// A card that should be there for a payload and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where it sat.
    pub pci: PciAddress,
    /// How it is lost.
    pub how: How,
}

/// How a card is lost, by what was found first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is not on the bus.
    Gone,
    /// It is on the bus and does not answer.
    Dead,
    /// It answers, no driver has it or NVIDIA's has, and NVML does not show it.
    Hidden,
}

/// What is lost of the cards that were there before (`expected`) and of those that the bus has, each once, by address.
/// `seen` is what NVML shows, `None` while it gives no answer: that is no word on any card. A card that another driver has,
/// as `vfio-pci` for a virtual machine, is not NVML's to show.
#[must_use]
pub fn compare(expected: &[PciAddress], on_bus: &[Card], seen: Option<&[PciAddress]>) -> Vec<Lost> {
    let gone = expected.iter().filter(|pci| on_bus.iter().all(|card| card.pci != **pci));
    let gone = gone.map(|pci| Lost { pci: *pci, how: How::Gone });
    let ill = on_bus.iter().filter_map(|card| {
        let ours = card.driver.as_deref().is_none_or(|driver| driver == "nvidia");
        let how = match seen {
            _ if card.dead => How::Dead,
            Some(seen) if ours && !seen.contains(&card.pci) => How::Hidden,
            _ => return None,
        };
        Some(Lost { pci: card.pci, how })
    });
    let mut lost = sorted::list_by(gone.chain(ill), |a: &Lost, b| a.pci.cmp(&b.pci));
    lost.dedup();
    lost
}

/// The kernel module that is loaded. A library of another version fails in every new process until the rig restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// As `550.54.14`.
    pub version: String,
    /// NVIDIA's open module, the only one for Blackwell and later.
    pub open: bool,
}

/// What `/proc/driver/nvidia/version`, or what stands in its place, says; `None` where no module of NVIDIA is loaded.
///
/// # Errors
///
/// Where the file is there and cannot be read, or has no version in it (`InvalidData`).
pub fn module(path: &Path) -> io::Result<Option<Module>> {
    match attribute(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => parse_module(&text?).map(Some).ok_or_else(|| ErrorKind::InvalidData.into()),
    }
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu ...`, and of the open module
/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.42.06  Release Build  ...`.
fn parse_module(text: &str) -> Option<Module> {
    let line = text.lines().find_map(|line| line.strip_prefix("NVRM version:"))?;
    let (before, behind) = line.split_once("Kernel Module")?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let version = behind.split_whitespace().find(|word| word.contains('.') && word.split('.').all(number))?;
    Some(Module { version: version.to_owned(), open: before.split_whitespace().any(|word| word == "Open") })
}

#[cfg(test)]
mod tests;
