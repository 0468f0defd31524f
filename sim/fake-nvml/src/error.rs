//! `nvmlErrorString`, the one function that returns no code.

use std::ffi::{CStr, c_char};

use nvml_wrapper_sys::bindings::*;

const NAMES: [(nvmlReturn_t, &CStr); 14] = [
    (0, c"Success"),
    (1, c"Uninitialized"),
    (2, c"Invalid Argument"),
    (3, c"Not Supported"),
    (4, c"Insufficient Permissions"),
    (6, c"Not Found"),
    (7, c"Insufficient Size"),
    (9, c"Driver Not Loaded"),
    (10, c"Timeout"),
    (15, c"GPU is lost"),
    (18, c"Driver/library version mismatch"),
    (23, c"Insufficient Resources"),
    (25, c"Argument version mismatch"),
    (26, c"Requested functionality has been deprecated"),
];

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    NAMES.iter().find(|(known, _)| *known == code).map_or(c"Unknown Error", |(_, name)| name).as_ptr()
}
