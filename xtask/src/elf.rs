//! The little of an ELF file that shows what a binary needs to run. Layout: System V ABI, "ELF header" and "Program
//! header"; 64-bit little-endian only, as both of our architectures are.

use anyhow::{Context, Result, bail, ensure};

use crate::checkout::Arch;

/// `p_type` of the segment that names a dynamic loader.
const PT_INTERP: u32 = 3;

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
        let table = usize::try_from(u64_at(file, 0x20)?)?;
        let entry_size = usize::from(u16_at(file, 0x36)?);
        let mut is_static = true;
        for number in 0..usize::from(u16_at(file, 0x38)?) {
            let at = number.checked_mul(entry_size).and_then(|offset| offset.checked_add(table));
            is_static &= u32_at(file, at.context("program header out of range")?)? != PT_INTERP;
        }
        Ok(Self { arch, is_static })
    }
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
    }
}
