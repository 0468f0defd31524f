//! Which buses there are, and what a board file calls them.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use rigd::bus::{self, Adapter, AdapterInfo, Host, MUXES, Selector};

use super::rules;

/// A bus that can be looked at.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// How it is opened.
    pub(crate) adapter: Adapter,
    /// What the board file says where it is: the key and its value.
    pub(crate) entry: (&'static str, String),
    /// For people.
    pub(crate) title: String,
    /// A name for it in the board file.
    pub(crate) name: String,
    /// Number of the kernel's adapter.
    pub(crate) number: Option<u32>,
    /// It is a PC main board's SMBus.
    pub(crate) main_board: bool,
    /// It is a channel of a multiplexer that the kernel switches.
    pub(crate) channel: Option<Channel>,
}

/// Which channel of which multiplexer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Number of the adapter that the multiplexer is on.
    pub(crate) on: u32,
    /// Address of the multiplexer.
    pub(crate) mux: u8,
    /// What board files call it; `None` where they do not know it.
    pub(crate) part: Option<&'static str>,
    /// From 0.
    pub(crate) channel: u8,
}

/// The buses to look at, each before those behind it, and what was left out.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) places: Vec<Place>,
    /// One line each.
    pub(crate) left_out: Vec<String>,
}

/// The kernel's adapters: all but those of graphics cards, or those that are named. A multiplexer's channels come with the
/// adapter that it is on, and that adapter with them: else its chips would be taken for the channel's.
pub(crate) fn adapters(host: &Host, wanted: &[Selector]) -> anyhow::Result<Survey> {
    let all = bus::adapters(host);
    if all.is_empty() {
        bail!("this machine has no I2C adapter; where it should have one, `modprobe i2c-dev` makes them visible");
    }
    let mut named = Vec::new();
    for selector in wanted {
        let known = || all.iter().map(|adapter| adapter.name.as_str()).collect::<Vec<_>>().join(", ");
        let found =
            bus::find(host, selector).with_context(|| format!("--adapter {selector}; there are {}", known()))?;
        named.push(found);
    }
    let mut survey = Survey::default();
    let mut chosen: Vec<&AdapterInfo> = Vec::new();
    for adapter in &all {
        let related = |other: &AdapterInfo| {
            let (one, other) = (&adapter.device, &other.device);
            !one.as_os_str().is_empty() && (one.starts_with(other) || other.starts_with(one))
        };
        if wanted.is_empty() && is_graphics(adapter) {
            let text = format!("{} is a graphics card's: not looked at; --adapter names it", title(adapter));
            survey.left_out.push(text);
        } else if wanted.is_empty() || named.iter().any(|other| other == adapter || related(other)) {
            chosen.push(adapter);
        }
    }
    chosen.sort_by_key(|adapter| (depth(&adapter.device), adapter.number()));
    let mut names = Names::default();
    survey.places = chosen.into_iter().map(|adapter| place(host, adapter, &mut names)).collect();
    Ok(survey)
}

/// The sockets of a simulated rig.
pub(crate) fn sockets(directory: &Path, wanted: &[Selector]) -> anyhow::Result<Survey> {
    use std::os::unix::fs::FileTypeExt;

    let entries = fs::read_dir(directory)
        .with_context(|| format!("could not read the simulated rig's directory {}", directory.display()))?;
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(is_socket)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NO_BUSES.contains(&name.as_str()))
        .collect();
    names.sort();
    if names.is_empty() {
        bail!("{} holds no bus of a simulated rig: is it running?", directory.display());
    }
    for selector in wanted {
        if !names.iter().any(|name| *name == selector.to_string()) {
            bail!("--adapter {selector}: the simulated rig has no such bus, only {}", names.join(", "));
        }
    }
    names.retain(|name| wanted.is_empty() || wanted.iter().any(|selector| selector.to_string() == *name));
    let mut unique = Names::default();
    let places = names.into_iter().map(|name| Place {
        adapter: Adapter::Socket(name.clone()),
        title: format!("simulated bus {name}"),
        name: unique.take(&slug(&name)),
        entry: ("socket", name),
        number: None,
        main_board: false,
        channel: None,
    });
    Ok(Survey { places: places.collect(), left_out: Vec::new() })
}

/// Sockets of the simulated rig that are no bus: its own, and its cards' driver.
const NO_BUSES: [&str; 2] = ["control", "nvml"];

fn place(host: &Host, adapter: &AdapterInfo, names: &mut Names) -> Place {
    let first = adapter.name.split_whitespace().next().unwrap_or_default();
    Place {
        adapter: Adapter::Kernel { selector: Selector::Device(adapter.path.clone()), timeout: None },
        entry: ("adapter", steadiest(host, adapter).to_string()),
        title: title(adapter),
        name: names.take(&slug(first)),
        number: adapter.number(),
        main_board: is_main_board(adapter),
        channel: channel(adapter),
    }
}

fn title(adapter: &AdapterInfo) -> String {
    format!("{} ({})", adapter.name, adapter.path.display())
}

/// What stays longest the same and means this adapter alone: its place in the machine, else the name that its driver gives
/// it, else its number.
fn steadiest(host: &Host, adapter: &AdapterInfo) -> Selector {
    let own = |selector: &Selector| bus::find(host, selector).is_ok_and(|found| found == *adapter);
    let mut selectors = Vec::new();
    if let Some(id) = &adapter.usb {
        selectors.push(Selector::Usb { id: id.clone(), serial: None });
        selectors.push(Selector::Usb { id: id.clone(), serial: adapter.serial.clone() });
    } else {
        let pci = adapter.device.iter().rev().filter_map(|part| format!("pci:{}", part.to_str()?).parse().ok());
        selectors.extend(pci.filter(|selector| matches!(selector, Selector::Pci(_))).take(1));
    }
    // Such a name begins like a selector of another kind and would be taken for one.
    if adapter.name.parse() == Ok(Selector::Name(adapter.name.clone())) {
        selectors.push(Selector::Name(adapter.name.clone()));
    }
    selectors.into_iter().find(own).unwrap_or_else(|| Selector::Device(adapter.path.clone()))
}

/// Whether it leads to monitors: by its name, by its place below a card, or by the class of its PCI device (03, display).
fn is_graphics(adapter: &AdapterInfo) -> bool {
    let display = |above: &Path| fs::read_to_string(above.join("class")).is_ok_and(|class| class.starts_with("0x03"));
    rules::is_graphics(&adapter.name)
        || adapter.device.iter().any(|part| part == "drm")
        || adapter.device.ancestors().any(display)
}

/// Whether it, or the adapter that it is behind, is a main board's SMBus.
fn is_main_board(adapter: &AdapterInfo) -> bool {
    let name = |above: &Path| fs::read_to_string(above.join("name"));
    let above = |above: &Path| is_adapter(above) && name(above).is_ok_and(|name| rules::is_main_board(&name));
    rules::is_main_board(&adapter.name) || adapter.device.ancestors().any(above)
}

/// The multiplexer's channel that an adapter is: `.../i2c-4/4-0070/i2c-8`.
fn channel(adapter: &AdapterInfo) -> Option<Channel> {
    let own = adapter.device.file_name()?;
    let mux = adapter.device.parent()?;
    let (on, addr) = mux.file_name()?.to_str()?.split_once('-')?;
    let is_own = |channel: &u8| {
        let link = fs::read_link(mux.join(format!("channel-{channel}")));
        link.is_ok_and(|link| link.file_name() == Some(own))
    };
    let name = fs::read_to_string(mux.join("name")).unwrap_or_default();
    Some(Channel {
        on: on.parse().ok()?,
        mux: u8::from_str_radix(addr, 16).ok()?,
        part: mux_part(name.trim_end()),
        channel: (0..8).find(is_own)?,
    })
}

/// The multiplexer of this name, where board files know it.
pub(crate) fn mux_part(name: &str) -> Option<&'static str> {
    MUXES.iter().map(|part| part.name).find(|known| *known == name)
}

fn is_adapter(path: &Path) -> bool {
    AdapterInfo::number_of(path).is_some()
}

/// How many adapters are above it, itself too.
fn depth(device: &Path) -> usize {
    device.ancestors().filter(|above| is_adapter(above)).count()
}

/// Names that are given once.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// The name, with a number behind it where it was taken before.
    pub(crate) fn take(&mut self, name: &str) -> String {
        let numbered = (2..).map(|n: u32| format!("{name}_{n}"));
        let mut all = std::iter::once(name.to_owned()).chain(numbered);
        let free = all.find(|name| !self.0.contains(name)).unwrap_or_default();
        self.0.push(free.clone());
        free
    }
}

/// What TOML takes as a bare key, and no name that board files keep for themselves.
fn slug(text: &str) -> String {
    let slug: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' })
        .collect();
    match slug.trim_matches('-') {
        "" => "bus".to_owned(),
        "hwmon" => "hwmon-bus".to_owned(),
        slug => slug.to_owned(),
    }
}

#[cfg(test)]
mod tests;
