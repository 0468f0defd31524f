//! Which of this machine's I2C adapters is meant.
//!
//! Numbers (`/dev/i2c-3`) change from boot to boot and from plug to plug, so a board names an adapter by something that
//! stays: the name that its driver gives it, its PCI address, its USB ids, or where it sits in `/sys/devices`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Error, Host, Segment};
use crate::sorted;

/// How a board names an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Contents of its `name` file.
    Name(String),
    /// Its device file, for a bench where the number is known: `/dev/i2c-3`, or a link to it.
    Device(PathBuf),
    /// An adapter of the PCI device at this address (`pci:0000:00:1f.4`).
    Pci(String),
    /// An adapter of a USB device by vendor, product and, where several are alike, serial number (`usb:10c4:ea90`).
    Usb {
        /// Vendor and product as `lsusb` has them, such as `10c4:ea90`.
        id: String,
        /// Serial number.
        serial: Option<String>,
    },
    /// Somewhere below this part of its path in `/sys/devices` (`path:30a20000.i2c`).
    Path(String),
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = |text: &str, length| {
            text.len() == length && text.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
        };
        if text.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if text.starts_with('/') {
            return Ok(Self::Device(text.into()));
        }
        match text.split_once(':') {
            Some(("pci", address)) => match address.split([':', '.']).collect::<Vec<_>>().as_slice() {
                [domain, bus, device, function]
                    if hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1) =>
                {
                    Ok(Self::Pci(address.to_owned()))
                }
                _ => Err(format!("`{address}` is no PCI address such as 0000:00:1f.4")),
            },
            Some(("usb", rest)) => {
                let mut parts = rest.splitn(3, ':');
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(vendor), Some(product), serial) if hex(vendor, 4) && hex(product, 4) => {
                        Ok(Self::Usb { id: format!("{vendor}:{product}"), serial: serial.map(str::to_owned) })
                    }
                    _ => Err(format!("`{rest}` is no pair of USB ids in lower case such as 10c4:ea90")),
                }
            }
            Some(("path", "")) => Err("`path:` names nothing".to_owned()),
            Some(("path", path)) => Ok(Self::Path(path.to_owned())),
            _ => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Device(path) => path.display().fmt(f),
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::Usb { id, serial: None } => write!(f, "usb:{id}"),
            Self::Usb { id, serial: Some(serial) } => write!(f, "usb:{id}:{serial}"),
            Self::Path(path) => write!(f, "path:{path}"),
        }
    }
}

/// An adapter of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Contents of its `name` file: what a board file gives.
    pub name: String,
    /// Its device file; the number in it changes from boot to boot.
    pub path: PathBuf,
    /// Its place below `/sys/devices`, links resolved; empty where the kernel does not say.
    pub device: PathBuf,
    /// USB vendor and product, where it is a USB device's.
    pub usb: Option<String>,
    /// That device's serial number.
    pub serial: Option<String>,
}

/// The adapters there are now, in the order of their numbers; none where the kernel has no i2c-dev.
#[must_use]
pub fn adapters(host: &Host) -> Vec<AdapterInfo> {
    let Ok(entries) = fs::read_dir(host.sysfs.join("class/i2c-dev")) else { return Vec::new() };
    let found: Vec<AdapterInfo> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("name")).ok()?.trim_end().to_owned();
            let device = fs::canonicalize(entry.path().join("device")).unwrap_or_default();
            let usb = device.ancestors().find_map(|above| Some((above, usb_id(above)?)));
            let serial = usb.as_ref().and_then(|(above, _)| fs::read_to_string(above.join("serial")).ok());
            Some(AdapterInfo {
                name,
                path: host.dev.join(entry.file_name()),
                usb: usb.map(|(_, id)| id),
                serial: serial.map(|serial| serial.trim_end().to_owned()),
                device,
            })
        })
        .collect();
    sorted::list_by(found, |a, b| (a.number(), &a.path).cmp(&(b.number(), &b.path)))
}

fn usb_id(directory: &Path) -> Option<String> {
    let file = |name| fs::read_to_string(directory.join(name)).ok();
    Some(format!("{}:{}", file("idVendor")?.trim_end(), file("idProduct")?.trim_end()))
}

/// The one adapter that is meant.
///
/// # Errors
/// `Gone` where there is none, or more than one.
pub fn find(host: &Host, selector: &Selector) -> Result<AdapterInfo, Error> {
    let mut matching: Vec<AdapterInfo> =
        adapters(host).into_iter().filter(|adapter| adapter.is(selector, &host.dev)).collect();
    match (matching.len(), matching.pop()) {
        (1, Some(adapter)) => Ok(adapter),
        (0, _) | (_, None) => Err(Error::Gone(format!("there is no adapter `{selector}`"))),
        (count, Some(last)) => {
            let device = last.device.display();
            Err(Error::Gone(format!("{count} adapters are `{selector}`; name one by `path:` and a part of {device}")))
        }
    }
}

impl AdapterInfo {
    fn is(&self, selector: &Selector, dev: &Path) -> bool {
        // Channels of a multiplexer sit below the adapter that it is on: they are not that adapter.
        let own = |above: &Path| {
            let below = self.device.strip_prefix(above).ok();
            below.is_some_and(|below| {
                let adapters = below.iter().filter(|part| part.to_str().is_some_and(is_adapter));
                adapters.count() == 1
            })
        };
        let below_component = |wanted: &str| self.device.ancestors().any(|above| above.ends_with(wanted) && own(above));
        match selector {
            Selector::Name(name) => self.name == *name,
            Selector::Device(path) => {
                let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                real == self.path || real.file_name().is_some_and(|name| dev.join(name) == self.path)
            }
            Selector::Pci(address) => below_component(address),
            Selector::Path(path) => self.device.ends_with(path) || below_component(path),
            Selector::Usb { id, serial } => {
                let usb = self.device.ancestors().find(|above| usb_id(above).is_some());
                self.usb.as_ref() == Some(id)
                    && serial.as_ref().is_none_or(|serial| self.serial.as_ref() == Some(serial))
                    && usb.is_some_and(own)
            }
        }
    }

    /// The number in its device file's name.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        Self::number_of(&self.path)
    }

    /// The number in the name of a device file, or of an adapter's directory in sysfs; `None` where it is neither.
    #[must_use]
    pub fn number_of(path: &Path) -> Option<u32> {
        path.file_name()?.to_str()?.strip_prefix("i2c-")?.parse().ok()
    }

    /// The device file of a multiplexer's channel where the kernel's driver has it; `None` where nobody does and the
    /// multiplexer is ours to switch.
    pub(super) fn channel(&self, host: &Host, segment: Segment) -> Result<Option<PathBuf>, Error> {
        let Some(number) = self.number() else { return Ok(None) };
        let mux = host.sysfs.join(format!("bus/i2c/devices/{number}-{:04x}", segment.mux));
        if !mux.join("driver").exists() && mux.join("channel-0").symlink_metadata().is_err() {
            return Ok(None);
        }
        let link = fs::read_link(mux.join(format!("channel-{}", segment.channel)));
        let name = link.ok().and_then(|link| Some(link.file_name()?.to_owned()));
        match name {
            Some(name) => Ok(Some(host.dev.join(name))),
            None => {
                Err(Error::Gone(format!("the multiplexer at {:#04x} has no channel {}", segment.mux, segment.channel)))
            }
        }
    }
}

fn is_adapter(component: &str) -> bool {
    component.strip_prefix("i2c-").is_some_and(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests;
