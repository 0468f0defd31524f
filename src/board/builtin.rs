//! The board files that are built into the binary. To add one: copy a neighbour in `boards/` and add its line here. Those of
//! the guest tests, which bring them along, are no rig's.

macro_rules! boards {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../boards/", $name, ".toml")))),+]
    };
}

/// Name and text of each.
pub const BUILTIN: &[(&str, &str)] =
    boards!["breakout-8gpu", "crps-pmbus", "fanboard-6", "frame-12gpu", "simulated-8gpu"];
