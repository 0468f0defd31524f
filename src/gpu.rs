//! GPUs: what is known of them, what they are ordered to do, and the process that talks to their driver.
//!
//! ```text
//! control ── Order, one a tick, the newest wins ──> gpu thread ── frames on a pipe ──> rigd-nvml ── NVML
//!                                                       │  keeper: a profile as a transaction, one per GPU
//! kernel log, PCI inventory ──────────────────────────> │
//!                                                       └── watch<GpuSnapshot> ──> control
//! ```
//!
//! NVML is never called in this process: a call that hangs or crashes costs `rigd-nvml`, which is given up and started
//! anew, and the thread that waited for it; no tick, no fan on I2C and no message waits for either. Like a bus thread, the
//! GPU thread has no clock of its own: it works when control has finished a tick. GPUs are known by PCI address and UUID,
//! never by NVML's index, which moves when one of them is lost.

pub mod wire;
