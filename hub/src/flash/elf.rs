//! The machine that a program is for, from its ELF header (System V ABI,
//! chapter 4; processor supplements for `e_machine`).

use std::fmt;

/// Processors that the agent is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, any version.
    Arm,
    /// 64-bit x86.
    X86_64,
    /// 64-bit RISC-V.
    Riscv64,
}

/// Why a file is not a program for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Something else.
    #[error("it is not a Linux program (ELF)")]
    NotElf,
    /// For another machine.
    #[error("it is for a machine that Skerry does not know (ELF machine {0})")]
    Unknown(u16),
}

impl Machine {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Aarch64, Self::Arm, Self::X86_64, Self::Riscv64];

    /// From the first bytes of a program.
    pub fn of(start: &[u8]) -> Result<Self, ElfError> {
        let (Some([0x7f, b'E', b'L', b'F', class, 1, ..]), Some(&[low, high])) =
            (start.get(..20), start.get(18..20))
        else {
            return Err(ElfError::NotElf);
        };
        match (u16::from_le_bytes([low, high]), class) {
            (183, 2) => Ok(Self::Aarch64),
            (40, 1) => Ok(Self::Arm),
            (62, 2) => Ok(Self::X86_64),
            (243, 2) => Ok(Self::Riscv64),
            (other, _) => Err(ElfError::Unknown(other)),
        }
    }

    /// The names of its directories with agents, the best first: an agent for
    /// Arm v6 runs on every 32-bit Raspberry Pi.
    pub fn directories(self) -> &'static [&'static str] {
        match self {
            Self::Aarch64 => &["aarch64"],
            Self::Arm => &["arm", "armv6", "armv7"],
            Self::X86_64 => &["x86_64"],
            Self::Riscv64 => &["riscv64"],
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aarch64 => "aarch64 (64-bit Arm)",
            Self::Arm => "arm (32-bit Arm)",
            Self::X86_64 => "x86_64",
            Self::Riscv64 => "riscv64",
        })
    }
}

/// Whether a program needs a loader and libraries of the system: it has a
/// program header `PT_INTERP`. A static one runs on any system.
pub fn is_dynamic(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| {
        program
            .get(at..at + 2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
    };
    let wide = program.get(4) == Some(&2);
    let (table, size, count) = if wide { (32, 54, 56) } else { (28, 42, 44) };
    let word = |at: usize| {
        program
            .get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    let (Some(first), Some(size), Some(count)) = (word(table), half(size), half(count)) else {
        return false;
    };
    (0..usize::from(count)).any(|n| word(first as usize + n * usize::from(size)) == Some(PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_program_for_this_machine() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let machine = Machine::of(&own).unwrap();
        assert!(
            machine.directories().contains(&std::env::consts::ARCH),
            "{machine}"
        );
        assert!(is_dynamic(&own), "tests are linked with the system's libc");
        assert_eq!(
            Machine::of(b"#!/bin/sh\necho a script of some length"),
            Err(ElfError::NotElf)
        );
        assert_eq!(Machine::of(b""), Err(ElfError::NotElf));
    }
}
