//! One call and its return, as values and as lines of text: fields between tabs, numbers between blanks.
//!
//! ```text
//! > 0  nvmlDeviceSetFanSpeed_v2  3  0 70
//! < 0  -
//! > 1000  nvmlDeviceGetPowerUsage  3
//! < 0  slow 500  234567
//! ```

use std::fmt;
use std::str::FromStr;

/// A call of the library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Who calls: settings need 0.
    pub uid: u32,
    /// Name of the C function.
    pub symbol: String,
    /// The card, in the order of their PCI addresses; not NVML's index.
    pub card: Option<usize>,
    /// What goes in, in the order of the C arguments.
    pub arguments: Vec<i64>,
    /// A UUID or a PCI address, where the function takes one.
    pub text: String,
}

/// What a call returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Return {
    /// Of NVML.
    pub code: u32,
    /// What the client has to do besides.
    pub act: Act,
    /// What comes out, in the order of the C arguments; of a list, all of it.
    pub values: Vec<i64>,
    /// What comes out as text.
    pub text: String,
}

/// What a fault makes of a call, where the calling process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    #[default]
    None,
    /// Never come back.
    Hang,
    /// Come back after so many ms.
    Slow(u32),
    /// Die of a segmentation fault.
    Segv,
    /// Die of `abort`.
    Abort,
    /// Say that a list's buffer is too small, whatever its size, and that one more is needed.
    Race,
    /// Say that a list is longer than what was written.
    Sizes,
}

/// A line that is no call or no return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a line of the simulated NVML")
    }
}

impl std::error::Error for NotUnderstood {}

fn numbers(values: &[i64]) -> String {
    values.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")
}

fn parse_numbers(text: &str) -> Result<Vec<i64>, NotUnderstood> {
    text.split_whitespace().map(|number| number.parse().map_err(|_| NotUnderstood)).collect()
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let card = self.card.map_or_else(|| "-".to_owned(), |card| card.to_string());
        let text = self.text.replace(['\t', '\n'], " ");
        write!(f, "{}\t{}\t{card}\t{}\t{text}", self.uid, self.symbol, numbers(&self.arguments))
    }
}

impl FromStr for Call {
    type Err = NotUnderstood;

    fn from_str(line: &str) -> Result<Self, NotUnderstood> {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap_or_default();
        let uid = field().parse().map_err(|_| NotUnderstood)?;
        let symbol = field().to_owned();
        let card = match field() {
            "-" => None,
            number => Some(number.parse().map_err(|_| NotUnderstood)?),
        };
        Ok(Self { uid, symbol, card, arguments: parse_numbers(field())?, text: field().to_owned() })
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match self.act {
            Act::None => "-".to_owned(),
            Act::Hang => "hang".to_owned(),
            Act::Slow(ms) => format!("slow {ms}"),
            Act::Segv => "segv".to_owned(),
            Act::Abort => "abort".to_owned(),
            Act::Race => "race".to_owned(),
            Act::Sizes => "sizes".to_owned(),
        };
        write!(f, "{}\t{act}\t{}\t{}", self.code, numbers(&self.values), self.text)
    }
}

impl FromStr for Return {
    type Err = NotUnderstood;

    fn from_str(line: &str) -> Result<Self, NotUnderstood> {
        let mut fields = line.split('\t');
        let mut field = || fields.next().unwrap_or_default();
        let code = field().parse().map_err(|_| NotUnderstood)?;
        let act = match field() {
            "-" => Act::None,
            "hang" => Act::Hang,
            "segv" => Act::Segv,
            "abort" => Act::Abort,
            "race" => Act::Race,
            "sizes" => Act::Sizes,
            other => {
                let ms = other.strip_prefix("slow ").and_then(|ms| ms.parse().ok());
                Act::Slow(ms.ok_or(NotUnderstood)?)
            }
        };
        Ok(Self { code, act, values: parse_numbers(field())?, text: field().to_owned() })
    }
}

/// Every function that the library has besides `nvmlErrorString`, without its `nvml`.
pub const SYMBOLS: [&str; 89] = [
    "Init_v2",
    "InitWithFlags",
    "Shutdown",
    "SystemGetDriverVersion",
    "SystemGetNVMLVersion",
    "SystemGetProcessName",
    "EventSetCreate",
    "EventSetFree",
    "EventSetWait_v2",
    "DeviceGetCount_v2",
    "DeviceGetHandleByIndex_v2",
    "DeviceGetHandleByUUID",
    "DeviceGetHandleByPciBusId_v2",
    "DeviceGetIndex",
    "DeviceGetUUID",
    "DeviceGetName",
    "DeviceGetPciInfo_v3",
    "DeviceGetSerial",
    "DeviceGetVbiosVersion",
    "DeviceGetArchitecture",
    "DeviceGetMinorNumber",
    "DeviceGetBrand",
    "DeviceGetTemperature",
    "DeviceGetTemperatureV",
    "DeviceGetTemperatureThreshold",
    "DeviceGetMarginTemperature",
    "DeviceGetPowerUsage",
    "DeviceGetPowerManagementLimit",
    "DeviceGetPowerManagementDefaultLimit",
    "DeviceGetPowerManagementLimitConstraints",
    "DeviceGetEnforcedPowerLimit",
    "DeviceSetPowerManagementLimit",
    "DeviceGetTotalEnergyConsumption",
    "DeviceGetClockInfo",
    "DeviceGetMaxClockInfo",
    "DeviceGetSupportedGraphicsClocks",
    "DeviceGetSupportedMemoryClocks",
    "DeviceSetGpuLockedClocks",
    "DeviceResetGpuLockedClocks",
    "DeviceSetMemoryLockedClocks",
    "DeviceResetMemoryLockedClocks",
    "DeviceGetClockOffsets",
    "DeviceSetClockOffsets",
    "DeviceGetGpcClkVfOffset",
    "DeviceSetGpcClkVfOffset",
    "DeviceGetMemClkVfOffset",
    "DeviceSetMemClkVfOffset",
    "DeviceGetGpcClkMinMaxVfOffset",
    "DeviceGetMemClkMinMaxVfOffset",
    "DeviceGetPerformanceState",
    "DeviceGetSupportedPerformanceStates",
    "DeviceGetMinMaxClockOfPState",
    "DeviceGetNumFans",
    "DeviceGetFanSpeed",
    "DeviceGetFanSpeed_v2",
    "DeviceGetFanSpeedRPM",
    "DeviceGetTargetFanSpeed",
    "DeviceGetMinMaxFanSpeed",
    "DeviceGetFanControlPolicy_v2",
    "DeviceSetFanControlPolicy",
    "DeviceSetFanSpeed_v2",
    "DeviceSetDefaultFanSpeed_v2",
    "DeviceGetCurrentClocksThrottleReasons",
    "DeviceGetCurrentClocksEventReasons",
    "DeviceGetSupportedClocksThrottleReasons",
    "DeviceGetSupportedClocksEventReasons",
    "DeviceGetEccMode",
    "DeviceGetTotalEccErrors",
    "DeviceGetRemappedRows",
    "DeviceGetRetiredPages_v2",
    "DeviceGetRetiredPagesPendingStatus",
    "DeviceGetSupportedEventTypes",
    "DeviceRegisterEvents",
    "DeviceGetFieldValues",
    "DeviceGetComputeRunningProcesses_v3",
    "DeviceGetUtilizationRates",
    "DeviceGetMemoryInfo",
    "DeviceGetMemoryInfo_v2",
    "DeviceGetPcieThroughput",
    "DeviceGetCurrPcieLinkGeneration",
    "DeviceGetMaxPcieLinkGeneration",
    "DeviceGetCurrPcieLinkWidth",
    "DeviceGetMaxPcieLinkWidth",
    "DeviceGetPcieReplayCounter",
    "DeviceGetPersistenceMode",
    "DeviceSetPersistenceMode",
    "DeviceGetComputeMode",
    "DeviceSetComputeMode",
    "DeviceGetMigMode",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_returns_are_their_lines() {
        let call = Call {
            uid: 0,
            symbol: "nvmlDeviceSetFanSpeed_v2".to_owned(),
            card: Some(3),
            arguments: vec![0, -70],
            text: String::new(),
        };
        assert_eq!(call.to_string(), "0\tnvmlDeviceSetFanSpeed_v2\t3\t0 -70\t");
        assert_eq!(call.to_string().parse(), Ok(call));
        for act in [Act::None, Act::Hang, Act::Slow(500), Act::Segv, Act::Abort, Act::Race, Act::Sizes] {
            let returned = Return { code: 7, act, values: vec![i64::MIN, 3], text: "a b".to_owned() };
            assert_eq!(returned.to_string().parse(), Ok(returned));
        }
        assert!("x".parse::<Call>().is_err() && "1\ty\tz\t".parse::<Call>().is_err());
        assert!("0\tdance\t".parse::<Return>().is_err() && "0\t-\tone".parse::<Return>().is_err());
    }

    #[test]
    fn no_symbol_is_there_twice() {
        let mut sorted = SYMBOLS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), SYMBOLS.len());
    }
}
