//! CPU time and memory of this process.

use std::time::Duration;

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};

/// Counts all allocations of the process.
#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Time, CPU time and allocations between two points in time, and resident memory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) elapsed: Duration,
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Resident memory before, at its peak, and after, in KiB. `None` if the system does not report it.
    pub(crate) resident: Option<[u64; 3]>,
    /// The number of allocations, with the feature `count-allocations`.
    pub(crate) allocations: Option<u64>,
}

/// The start of a measurement.
pub(crate) struct Start {
    at: std::time::Instant,
    cpu: ProcessTime,
    resident: Option<u64>,
    allocations: Option<u64>,
}

impl Start {
    pub(crate) fn now() -> Self {
        // Resets the peak of resident memory (Linux).
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self {
            resident: resident(),
            allocations: allocations(),
            at: std::time::Instant::now(),
            cpu: ProcessTime::now(),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let (cpu, elapsed, allocated) = (self.cpu.elapsed(), self.at.elapsed(), allocations());
        Usage {
            elapsed,
            cpu,
            resident: self.resident.and_then(|before| Some([before, memory("VmHWM:")?, resident()?])),
            allocations: allocated.zip(self.allocations).map(|(now, before)| now - before),
        }
    }
}

/// Returns the resident memory, in KiB.
pub(crate) fn resident() -> Option<u64> {
    memory("VmRSS:")
}

fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(feature = "count-allocations")]
fn allocations() -> Option<u64> {
    let stats = ALLOCATOR.stats();
    Some((stats.allocations + stats.reallocations) as u64)
}

/// Returns the allocated memory that is not freed, in KiB.
#[cfg(feature = "count-allocations")]
pub(crate) fn heap() -> Option<u64> {
    let stats = ALLOCATOR.stats();
    Some((stats.bytes_allocated.saturating_sub(stats.bytes_deallocated) / 1_024) as u64)
}

#[cfg(not(feature = "count-allocations"))]
pub(crate) fn heap() -> Option<u64> {
    None
}

#[cfg(not(feature = "count-allocations"))]
fn allocations() -> Option<u64> {
    None
}
