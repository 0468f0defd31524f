//! The little of an ELF file that shows what a binary needs to run. Layout: System V ABI, "ELF header" and "Program
//! header", and for what a binary asks of libraries "Dynamic section" and "Symbol versioning" of the Linux Standard Base
//! (readelf(1) shows the same with -d and -V); 64-bit little-endian only, as both of our architectures are.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use crate::checkout::Arch;

/// `p_type` of a segment that is loaded.
const PT_LOAD: u32 = 1;
/// Of the one that tells the loader what to do.
const PT_DYNAMIC: u32 = 2;
/// Of the one that names a dynamic loader.
const PT_INTERP: u32 = 3;
/// `d_tag`: a library, the strings, and the versions that are needed with their number.
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_VERNEED: u64 = 0x6fff_fffe;
const DT_VERNEEDNUM: u64 = 0x6fff_ffff;

/// What every rig with NVIDIA's library has, by its first letters.
const LIBRARIES: [&str; 6] = ["libc.so.", "libm.so.", "libdl.so.", "libpthread.so.", "libgcc_s.so.", "ld-linux-"];

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    pub(crate) arch: Arch,
    /// Needs no dynamic loader, hence no library of the machine it runs on.
    pub(crate) is_static: bool,
}

impl Elf {
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
        ensure!(file.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
        let arch = match u16_at(file, 0x12)? {
            0x3e => Arch::X86_64,
            0xb7 => Arch::Aarch64,
            other => bail!("e_machine is {other:#x}"),
        };
        let is_static = segments(file)?.iter().all(|segment| segment.kind != PT_INTERP);
        Ok(Self { arch, is_static })
    }
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn segments(file: &[u8]) -> Result<Vec<Segment>> {
    let table = usize::try_from(u64_at(file, 0x20)?)?;
    let entry_size = usize::from(u16_at(file, 0x36)?);
    let segment = |number: usize| {
        let at = number.checked_mul(entry_size).and_then(|offset| offset.checked_add(table));
        let at = at.filter(|at| *at < file.len()).context("program header out of range")?;
        let (offset, address, size) = (u64_at(file, at + 8)?, u64_at(file, at + 0x10)?, u64_at(file, at + 0x20)?);
        Ok(Segment { kind: u32_at(file, at)?, offset, address, size })
    };
    (0..usize::from(u16_at(file, 0x38)?)).map(segment).collect()
}

/// What a dynamic binary asks of the machine's libraries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Imports {
    libraries: BTreeSet<String>,
    /// Such as `GLIBC_2.17`.
    versions: BTreeSet<String>,
}

impl Imports {
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
        let segments = segments(file)?;
        // Where in the file an address is.
        let place = |address: u64| {
            let holds = |segment: &&Segment| {
                let inside = address.checked_sub(segment.address);
                segment.kind == PT_LOAD && inside.is_some_and(|inside| inside < segment.size)
            };
            let segment = segments.iter().find(holds).context("an address is in no segment")?;
            let place = (address - segment.address).checked_add(segment.offset).context("a segment is too large")?;
            Ok::<_, anyhow::Error>(usize::try_from(place)?)
        };
        let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC).context("not dynamic")?;
        let entries = (0..dynamic.size / 16).map(|number| {
            let at = usize::try_from(dynamic.offset.saturating_add(number * 16))?;
            Ok((u64_at(file, at)?, u64_at(file, at.saturating_add(8))?))
        });
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let value = |tag| entries.iter().find(|(of, _)| *of == tag).map(|(_, value)| *value);
        let strings = place(value(DT_STRTAB).context("no strings")?)?;
        let string = |offset: u64| text_at(file, strings.saturating_add(usize::try_from(offset)?));
        let needed = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
        let libraries = needed.map(|(_, name)| string(*name)).collect::<Result<_>>()?;
        let mut versions = BTreeSet::new();
        let mut at = value(DT_VERNEED).map(place).transpose()?.unwrap_or(0);
        // Elf64_Verneed of a library, then Elf64_Vernaux of each version; each tells how far the next one is.
        for _ in 0..value(DT_VERNEEDNUM).unwrap_or(0) {
            let mut version = at.saturating_add(usize::try_from(u32_at(file, at.saturating_add(8))?)?);
            for _ in 0..u16_at(file, at.saturating_add(2))? {
                versions.insert(string(u64::from(u32_at(file, version.saturating_add(8))?))?);
                version = version.saturating_add(usize::try_from(u32_at(file, version.saturating_add(12))?)?);
            }
            at = at.saturating_add(usize::try_from(u32_at(file, at.saturating_add(12))?)?);
        }
        Ok(Self { libraries, versions })
    }

    /// The oldest glibc that has everything, where nothing else is needed.
    pub(crate) fn oldest_glibc(&self) -> Result<[u32; 2]> {
        for library in &self.libraries {
            ensure!(LIBRARIES.iter().any(|known| library.starts_with(known)), "needs {library}");
        }
        let mut oldest = [2, 0];
        for version in self.versions.iter().filter(|version| !version.starts_with("GCC_")) {
            let mut numbers = version.strip_prefix("GLIBC_").unwrap_or_default().split('.').map(str::parse);
            let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
                bail!("needs {version}, which is no version of glibc")
            };
            oldest = oldest.max([major, minor]);
        }
        Ok(oldest)
    }
}

/// Ends with a zero byte.
fn text_at(file: &[u8], at: usize) -> Result<String> {
    let text = file.get(at..).and_then(|rest| rest.split(|byte| *byte == 0).next()).context("the file is cut short")?;
    Ok(String::from_utf8(text.to_vec())?)
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    file.get(at..).and_then(|rest| rest.first_chunk()).copied().context("the file is cut short")
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A header and its program headers at 0x40, one per type.
    fn file(machine: u16, types: &[u32]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(0x12, 0);
        file.extend(machine.to_le_bytes());
        file.resize(0x20, 0);
        file.extend(0x40_u64.to_le_bytes());
        file.resize(0x36, 0);
        file.extend(0x38_u16.to_le_bytes());
        file.extend(u16::try_from(types.len()).unwrap().to_le_bytes());
        file.resize(0x40, 0);
        for kind in types {
            file.extend(kind.to_le_bytes());
            file.resize(file.len() + 0x34, 0);
        }
        file
    }

    #[test]
    fn a_loader_makes_a_file_dynamic() {
        let rows: [(&str, Vec<u8>, Option<Elf>); 6] = [
            ("static", file(0x3e, &[1, 1]), Some(Elf { arch: Arch::X86_64, is_static: true })),
            // A static position-independent binary has PT_DYNAMIC (2) for its own relocations, and no loader.
            ("static pie", file(0xb7, &[1, 2, 1]), Some(Elf { arch: Arch::Aarch64, is_static: true })),
            ("dynamic", file(0x3e, &[1, 3, 2]), Some(Elf { arch: Arch::X86_64, is_static: false })),
            ("cut short", file(0x3e, &[1, 1]).into_iter().take(0x70).collect(), None),
            ("32-bit", b"\x7fELF\x01\x01\x01".to_vec(), None),
            ("a script", b"#!/bin/sh\n".to_vec(), None),
        ];
        for (name, file, expected) in rows {
            assert_eq!(Elf::parse(&file).ok(), expected, "{name}");
        }
    }

    #[test]
    fn this_test_is_an_elf_file_for_this_machine() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(Elf::parse(&own).unwrap().arch.name(), std::env::consts::ARCH);
        if cfg!(target_env = "gnu") {
            let imports = Imports::parse(&own).unwrap();
            assert!(imports.libraries.contains("libc.so.6"), "{imports:?}");
            assert!(imports.oldest_glibc().unwrap() >= [2, 17], "{imports:?}");
        }
    }

    #[test]
    fn the_newest_symbol_decides_and_no_other_library_is_let_in() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        type Row = (&'static [&'static str], &'static [&'static str], Option<[u32; 2]>);
        let rows: [Row; 7] = [
            (&["libc.so.6"], &["GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.3.4"], Some([2, 17])),
            (&["libc.so.6", "libgcc_s.so.1"], &["GLIBC_2.34", "GCC_4.2.0"], Some([2, 34])),
            (&["libc.so.6", "ld-linux-aarch64.so.1"], &[], Some([2, 0])),
            (&["libc.so.6"], &["GLIBC_PRIVATE"], None),
            (&["libc.so.6"], &["GLIBC_ABI_DT_RELR"], None),
            (&["libc.so.6", "libnvidia-ml.so.1"], &[], None),
            (&["libc.so.6"], &["CXXABI_1.3"], None),
        ];
        for (libraries, versions, expected) in rows {
            let imports = Imports { libraries: set(libraries), versions: set(versions) };
            assert_eq!(imports.oldest_glibc().ok(), expected, "{imports:?}");
        }
    }
}
