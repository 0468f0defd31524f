//! The meters that are built into the binary. To add one: copy a neighbour in `meters/`, add its line here, and an answer
//! that its payload really gave to `tests/meters/`.

macro_rules! meters {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../meters/", $name, ".toml")))),+]
    };
}

/// Name and text of each.
pub const BUILTIN: &[(&str, &str)] = meters![
    "bzminer",
    "ccminer",
    "cgminer",
    "generic-json",
    "generic-prometheus",
    "gminer",
    "llama-cpp",
    "lolminer",
    "ollama",
    "rigel",
    "sglang",
    "srbminer",
    "t-rex",
    "teamredminer",
    "tgi",
    "triton",
    "vllm",
    "xmrig",
];
