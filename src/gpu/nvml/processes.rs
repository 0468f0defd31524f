//! The processes that compute on a GPU.

use nvml_wrapper::enums::device::UsedGpuMemory;

use super::Gpu;
use super::code::code;
use super::sample::mebibytes;
use crate::gpu::wire::{Code, Process, Read};

/// What fits into a frame several times over; a rig has a handful per GPU.
const MOST: usize = 1024;
/// `NVML_ERROR_INSUFFICIENT_SIZE`: one more was started between the two halves of the call.
const MORE_BY_NOW: Code = Code(7);

pub(super) fn processes(gpu: &Gpu) -> Read<Vec<Process>> {
    let ask = || gpu.device.running_compute_processes().map_err(code);
    let running = match ask() {
        Err(MORE_BY_NOW) => ask(),
        told => told,
    }?;
    let memory = |used| match used {
        UsedGpuMemory::Used(bytes) => mebibytes(bytes),
        UsedGpuMemory::Unavailable => Err(Code::NOT_SUPPORTED),
    };
    let running = running.into_iter().take(MOST);
    Ok(running.map(|process| Process { pid: process.pid, memory: memory(process.used_gpu_memory) }).collect())
}
