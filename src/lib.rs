//! rigd: the agent on each rig of a GPU fleet that earns with AI work, mining, or neither, whichever pays.
//!
//! ```text
//! board file ── Board, resolved and checked ─┐                      ┌── Order, one a tick ── bus thread ── fan chip
//! chip ── bus thread ── watch<BusSnapshot> ──┤                      ├── Order, one a tick ── GPU thread ── rigd-nvml ── NVML
//! kernel driver ── hwmon ────────────────────┤   control: step()    ├── mpsc<Order> ── supervisor: hold, restart
//! GPU thread ── watch<GpuSnapshot> ──────────┼── on a thread of ────┤
//! supervisor ── watch<Payloads> ─────────────┤   its own            ├── watch<Snapshot> ── publisher, energy, arbiter, local
//! setpoint ── watch<Setpoints> ──────────────┘                      └── mpsc<Edge> ── publisher: an event
//!
//! manifests ── supervisor ── lifecycle::next ── process in its cgroup and sandbox ── watch<Payloads>
//!                  ^  a task for each payload: probe, meter, log
//! arbiter ─────────┘  plan::plan: which payload has which GPU; GPUs change hands by setpoint and mpsc<Order>
//! energy ── books, chained records ── receipts ── publisher
//!
//! publisher ── outbox ── link ── broker ── collect             telemetry, events, answers, receipts, with the disk behind
//! broker ── link ── inbox ── command, desired ── command::act ── setpoint, supervisor
//!                               └── journal and audit, on the disk before anything is done
//! rigd-ctl ── local, a socket on the rig ── what is known; orders to the same owners
//! ```
//!
//! Control and the GPU thread are OS threads, and so is each bus; all else shares one thread of tasks, with threads of their own
//! for what waits for the disk. What is asked of a rig over the broker never reaches a chip or a driver itself: it ends as a
//! setpoint, which control keeps inside the limits of board and profile, or as an order to the owner of the thing.
//!
//! # Reading order
//!
//! | module | what |
//! |---|---|
//! | [`units`] | quantities as types, whole numbers in the chips' own units |
//! | [`reading`] | a value or the reason why there is none; what the rig knows now |
//! | [`alarm`] | what can be wrong with it |
//! | [`board`] | board files: what is soldered where, with every name resolved |
//! | [`config`] | `/etc/rigd/rigd.toml` and every default |
//! | [`source`] | TOML with file, line and key in every complaint |
//! | [`chip`] | one file per part: registers, formula, driver |
//! | [`identity`] | what a board's EEPROM says of the board |
//! | [`hwmon`] | chips that a kernel driver owns |
//! | [`bus`] | one thread per adapter; raw I2C, SMBus, or the simulated rig's socket |
//! | `mailbox` | the newest order for a thread; an older one that was not begun gives way |
//! | [`calibration`] | what was learnt of a fan |
//! | [`gpu`] | what is known of GPUs and ordered of them; profiles as transactions |
//! | `compact`, `sorted` | postcard and sorting, each written once for all types |
//! | `statefile`, [`framed`], `digest` | files in the state directory; files that are only appended to; a number for a content |
//! | [`setpoint`] | what is asked of the rig beyond its configuration |
//! | [`control`] | the tick: read all, decide once, order once |
//! | [`energy`] | what the rig and each payload have used, and the records of it |
//! | [`history`] | the last hour in memory |
//! | [`payload`] | AI and mining programs: manifests, lifecycle, processes, logs |
//! | [`plan`] | which payload has which GPU; a dry run of it, `rigd-ctl simulate`, is not in the agent |
//! | [`arbiter`] | brings that plan about: measures, switches, takes back what does not work |
//! | [`wire`] | the only types that reach the broker |
//! | [`mqtt`] | outbox, publisher, inbox, link |
//! | [`command`] | who may command, whether this is a command, that none is carried out twice |
//! | [`desired`] | what the rig shall be, and the orders that bring it about |
//! | `desired_file` | a desired state as people write it, for the operator's tool |
//! | [`audit`] | who did what, in a log that cannot be changed unseen |
//! | `collect` | the control plane of a small site: `rigd-ctl collect`; not in the agent |
//! | [`local`] | the socket on the rig itself: what `rigd-ctl` asks and orders there |
//! | [`clock`], [`logger`] | where time comes from, where log lines go |
//!
//! # Glossary
//!
//! - **Board**: one revision of a rig's hardware, as data. **Refdes**: a chip's reference designator on the schematic.
//! - **Rail**: a power measurement. **Supply**: one that measures both its sides. **Zone**: sensors and the fans that
//!   answer to them.
//! - **Tick**: one round of control. **Pass**: one round of a bus thread over its chips, started by a tick.
//! - **Duty**: fan drive in hundredths of a percent. **Full air**: all fans of a zone at 100 %.
//! - **Rung**: how far a zone has climbed from its normal curve towards full air; an alarm names it.
//! - **Profile**: what a GPU is set to. **Cap**: a limit in watts, of the rig or of a GPU. **Ceiling**: the same for a clock. They
//!   stand beside a profile, and the lower holds.
//! - **Hold**: how far a payload is held back for the rig's power or heat: paused, drained or stopped, until it is free again.
//! - **Birth**: the retained message with all that does not change; **telemetry** carries values only and the birth's id.
//! - **Boot**: a random number per start of the agent. **Lane**: the messages of one kind, numbered from 1 in each boot without a
//!   hole; (boot, lane, seq) names a message for ever.
//! - **Watermark**: up to which number of a lane the control plane has everything stored; the rig keeps what is above it.
//! - **Receipt**: a record of the energy of a quarter of an hour, chained to the one before and signed by the rig.
//!
//! # Laws
//!
//! Only control gives orders to fans. Safety waits for nothing: not for MQTT, DNS or the disk. A reading is a value or a
//! reason. Blind means full air. Every setting is read back and repaired. One bad part stops one part. Time, I/O and
//! randomness come in as arguments to what decides. Every queue, retry, buffer and wait is bounded.

pub mod alarm;
pub mod arbiter;
pub mod audit;
pub mod board;
pub mod bus;
pub mod calibration;
pub mod chip;
pub mod clock;
#[cfg(feature = "ctl")]
pub mod collect;
pub mod command;
mod compact;
pub mod config;
pub mod control;
pub mod desired;
#[cfg(feature = "ctl")]
pub mod desired_file;
mod digest;
pub mod energy;
pub mod framed;
pub mod gpu;
pub mod history;
pub mod hwmon;
pub mod identity;
pub mod local;
mod lock;
pub mod logger;
mod mailbox;
pub mod mqtt;
pub mod payload;
pub mod plan;
pub mod reading;
#[cfg(test)]
mod scratch;
pub mod setpoint;
mod sorted;
pub mod source;
mod statefile;
pub mod units;
pub mod wire;
