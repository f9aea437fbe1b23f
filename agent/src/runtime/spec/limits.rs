//! Limits of a container, and what is kept for it.

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::check::{at_least, at_most};

/// Smallest memory limit; below this the kernel cannot even start a process.
pub const MIN_MEMORY_BYTES: u64 = 1 << 20;
/// Smallest CPU limit: the kernel's shortest quota, 1 ms in each 100 ms.
pub const MIN_CPU_MILLIS: u32 = 10;
/// Most sizes of huge pages that one CPU has, with room to spare.
const MAX_HUGE_PAGE_SIZES: usize = 8;
/// The greatest disk weight, as in the OCI specification.
const MAX_IO_WEIGHT: u16 = 1000;
/// The least disk weight that both versions of cgroups take.
const MIN_IO_WEIGHT: u16 = 1;
/// Longest list of CPUs in bytes.
const MAX_CPUS: usize = 256;

/// Limits of one container; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of one CPU.
    pub cpu_millis: Option<u32>,
    /// Memory, page cache included. Above it the kernel kills.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Thousandths of one CPU that it gets when CPUs are scarce; the kernel
    /// shares by these.
    pub cpu_request_millis: Option<u32>,
    /// Memory in bytes that is not taken from it when memory is scarce.
    pub memory_request_bytes: Option<u64>,
    /// Swap besides memory, in bytes. `None` is none, if memory is limited.
    pub swap_bytes: Option<u64>,
    /// The CPUs that it may run on, as the kernel writes them: `0-1,3`.
    pub cpus: Option<String>,
    /// Huge pages: bytes of one page, and bytes in all.
    pub huge_pages: Vec<(u64, u64)>,
    /// Share of the disks' time, 1 to 1000; 100 is usual.
    pub io_weight: Option<u16>,
}

impl Resources {
    /// Checks every bound that can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), SpecError> {
        if let Some(value) = self.cpu_millis {
            let min = MIN_CPU_MILLIS.into();
            at_least("the cpu limit in thousandths", value.into(), min)?;
        }
        if let Some(value) = self.memory_bytes {
            at_least("the memory limit in bytes", value, MIN_MEMORY_BYTES)?;
        }
        if let Some(value) = self.pids {
            at_least("the process limit", value.into(), 1)?;
        }
        if let Some(value) = self.io_weight {
            at_least("the disk weight", value.into(), MIN_IO_WEIGHT.into())?;
            let (value, max) = (usize::from(value), usize::from(MAX_IO_WEIGHT));
            at_most("as disk weight", value, max)?;
        }
        if self.swap_bytes.is_some() && self.memory_bytes.is_none() {
            return Err(SpecError::SwapWithoutMemory);
        }
        if let Some(cpus) = &self.cpus {
            check_cpus(cpus)?;
        }
        let sizes = self.huge_pages.len();
        at_most("sizes of huge pages", sizes, MAX_HUGE_PAGE_SIZES)?;
        for (page, _) in &self.huge_pages {
            if !page.is_power_of_two() || *page < 4096 {
                return Err(SpecError::HugePage { bytes: *page });
            }
        }
        Ok(())
    }
}

/// `0-1,3`: numbers and ranges that do not fall.
fn check_cpus(text: &str) -> Result<(), SpecError> {
    let number = |text: &str| text.parse::<u16>().ok();
    let good = text.len() <= MAX_CPUS
        && text.split(',').all(|part| match part.split_once('-') {
            None => number(part).is_some(),
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) => first <= last,
                _ => false,
            },
        });
    if good {
        Ok(())
    } else {
        let cpus = text.chars().take(MAX_CPUS).collect();
        Err(SpecError::Cpus { cpus })
    }
}
