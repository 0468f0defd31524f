//! The board files that are built into the binary. To add one: copy a neighbour in `boards/` and add its line here.

macro_rules! boards {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../boards/", $name, ".toml")))),+]
    };
}

/// Name and text of each.
pub const BUILTIN: &[(&str, &str)] = boards![
    "breakout-8gpu",
    "crps-pmbus",
    "fanboard-6",
    "frame-12gpu",
    "guest-arm",
    "guest-vhost",
    "guest-x86",
    "simulated-8gpu"
];
