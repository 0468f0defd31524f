//! The virtio I2C adapter as vhost-user has it: one queue in the virtual machine's memory, one socket to set it up.
//!
//! The driver in the guest puts all messages of a transaction into the queue, kicks once, and waits for all of them, so
//! whatever a kick finds is complete; that is taken, carried out, and answered.

use std::io::{self, Read, Write};

use rigd_sim::Sim;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT, Reader, Writer};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::request::{HEADER_BYTES, Message, Reply, carry_out};

/// `VIRTIO_F_VERSION_1`: the layout of the standard, not of what was before it.
const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_RING_F_INDIRECT_DESC`: QEMU's queue has 4 entries and a register read takes 6 descriptors. Without tables
/// beside the queue the driver cuts every transaction to what fits.
const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_I2C_F_ZERO_LENGTH_REQUEST`: the Linux driver does not work without.
const ZERO_LENGTH_REQUEST: u64 = 1 << 0;

/// `VIRTIO_I2C_MSG_OK` and `VIRTIO_I2C_MSG_ERR`.
const MSG_OK: u8 = 0;
const MSG_ERR: u8 = 1;

/// The kernel's bound on a message.
const MAX_BYTES: usize = 8192;

type Memory = GuestMemoryMmap;
type Chain = DescriptorChain<vm_memory::atomic::GuestMemoryLoadGuard<Memory>>;

/// One bus of a simulated rig, plugged into a virtual machine.
pub(crate) struct Device {
    sim: Sim,
    bus: String,
    memory: Option<GuestMemoryAtomic<Memory>>,
}

impl Device {
    pub(crate) fn new(sim: Sim, bus: String) -> Self {
        Self { sim, bus, memory: None }
    }

    /// Everything that is in the queue now.
    fn serve(&self, vring: &VringRwLock) -> io::Result<()> {
        let memory = self.memory.as_ref().ok_or_else(|| io::Error::other("a kick before there is memory"))?.memory();
        let chains: Vec<Chain> =
            vring.get_mut().get_queue_mut().iter(memory.clone()).map_err(io::Error::other)?.collect();
        let messages = chains.iter().map(|chain| take(&memory, chain)).collect::<io::Result<Vec<_>>>()?;
        let replies = carry_out(messages, |request| {
            let failed = rigd_sim::Outcome::failed(rigd::bus::socket::Status::Bus);
            self.sim.transact(&self.bus, request).unwrap_or(failed)
        });
        for (chain, reply) in chains.into_iter().zip(replies) {
            let head = chain.head_index();
            let written = give(&memory, chain, &reply)?;
            vring.add_used(head, written).map_err(io::Error::other)?;
        }
        vring.signal_used_queue()
    }
}

/// The message in a chain of descriptors: header and bytes to write, then room for bytes to read and for the status.
fn take(memory: &Memory, chain: &Chain) -> io::Result<Message> {
    let mut header = [0; HEADER_BYTES];
    let mut reader: Reader<'_> = Reader::new(memory, chain.clone()).map_err(io::Error::other)?;
    reader.read_exact(&mut header)?;
    let room = Writer::<'_>::new(memory, chain.clone()).map_err(io::Error::other)?.available_bytes();
    let room = room.checked_sub(1).filter(|room| room.max(&reader.available_bytes()) <= &MAX_BYTES);
    let room = room.ok_or_else(|| io::Error::other("a message without a status, or too long"))?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(Message::parse(header, bytes, room))
}

/// Writes the reply into its chain; says how many bytes.
fn give(memory: &Memory, chain: Chain, reply: &Reply) -> io::Result<u32> {
    let mut writer: Writer<'_> = Writer::new(memory, chain).map_err(io::Error::other)?;
    writer.write_all(&reply.bytes)?;
    writer.write_all(&[if reply.ok { MSG_OK } else { MSG_ERR }])?;
    u32::try_from(writer.bytes_written()).map_err(io::Error::other)
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        VERSION_1 | INDIRECT_DESC | ZERO_LENGTH_REQUEST | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// Not offered.
    fn set_event_idx(&mut self, _: bool) {}

    fn update_memory(&mut self, memory: GuestMemoryAtomic<Memory>) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn handle_event(&mut self, _: u16, _: EventSet, vrings: &[VringRwLock], _: usize) -> io::Result<()> {
        vrings.first().map_or(Ok(()), |vring| self.serve(vring))
    }
}
