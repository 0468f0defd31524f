//! Registers as they come: name, number, what is in it, and what it means.

use std::fmt::Write;

use embedded_hal::i2c::I2c;
use rigd::bus::{Device, Error};
use rigd::chip::{Form, Part, Register};
use serde_json::{Value, json};

use super::withhold::request_checksum;

/// A block's length and its most bytes (SMBus 3.1, 6.5.7, as far as kernel adapters go).
const BLOCK: usize = 33;

/// A register with what is in it.
pub(super) type Row = (&'static Register, Result<String, Error>);

/// Each register; and whether any of them could be read.
pub(super) fn registers(device: &mut Device, part: &Part) -> (Vec<Row>, Result<(), Error>) {
    let mut rows = Vec::new();
    if part.registers.list().is_empty() {
        return (rows, Ok(()));
    }
    let mut outcome = Err(Error::NoAcknowledge);
    let mut time_outs = 0;
    for register in part.registers.list() {
        // A bus that hangs costs a second for each question.
        let result = if time_outs < 2 { read(device, register) } else { Err(Error::TimedOut) };
        time_outs = if result == Err(Error::TimedOut) { time_outs + 1 } else { 0 };
        outcome = match (outcome, &result) {
            (Ok(()), _) | (_, Ok(_)) => Ok(()),
            (Err(_), Err(error)) => Err(error.clone()),
        };
        rows.push((register, result));
    }
    (rows, outcome)
}

/// A line for each register.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let Some(name) = rows.iter().map(|(register, _)| register.name.len().max("REGISTER".len())).max() else {
        return text;
    };
    line(&mut text, &format!("{:<name$}  AT    {:<10}  MEANING", "REGISTER", "RAW"));
    for (register, result) in rows {
        let raw = result.clone().unwrap_or_else(|error| error.to_string());
        line(&mut text, &format!("{:<name$}  {:#04x}  {raw:<10}  {}", register.name, register.at, register.formula));
    }
    text
}

/// The same as JSON.
pub(super) fn facts(rows: &[Row]) -> Value {
    let row = |(register, result): &Row| {
        let error = result.as_ref().err().map(ToString::to_string);
        let raw = result.as_ref().ok();
        json!({ "register": register.name, "at": register.at, "raw": raw, "error": error, "meaning": register.formula })
    };
    rows.iter().map(row).collect()
}

fn line(text: &mut String, line: &str) {
    let _ = writeln!(text, "{}", line.trim_end());
}

/// What is in a register, in hexadecimal.
fn read(device: &mut Device, register: &Register) -> Result<String, Error> {
    let addr = device.addr();
    match register.form {
        Form::U8 => number(device, register.at, 1, |_| {}),
        Form::Be(width) => number(device, register.at, width, |_| {}),
        Form::Le(width) => number(device, register.at, width, <[u8]>::reverse),
        Form::Block => block(device, register.at),
        Form::CommonSlot => {
            let mut bytes = [0; 3];
            device.write(addr, &[register.at, request_checksum(addr, register.at)])?;
            device.read(addr, &mut bytes)?;
            let [low, high, checksum] = bytes;
            let sum = low.wrapping_add(high).wrapping_add(checksum);
            let note = if sum == 0 { "" } else { " (the checksum does not fit)" };
            Ok(format!("{:#06x}{note}", u16::from_le_bytes([low, high])))
        }
    }
}

/// A number of so many bytes; `order` brings the most significant to the front.
fn number(device: &mut Device, at: u8, width: u8, order: impl Fn(&mut [u8])) -> Result<String, Error> {
    let mut bytes = vec![0; width.into()];
    device.write_read(device.addr(), &[at], &mut bytes)?;
    order(&mut bytes);
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", rigd::wire::hex(bytes))
}

/// A length and so many bytes, as text too where it is text. An SMBus adapter gives one byte less than a block can have.
fn block(device: &mut Device, at: u8) -> Result<String, Error> {
    let mut bytes = vec![0; BLOCK];
    if let Err(error) = device.write_read(device.addr(), &[at], &mut bytes) {
        if !matches!(error, Error::Unsupported(_)) {
            return Err(error);
        }
        bytes.truncate(BLOCK - 1);
        device.write_read(device.addr(), &[at], &mut bytes)?;
    }
    let Some((length, block)) = bytes.split_first() else { return Ok(String::new()) };
    let length = usize::from(*length);
    let Some(block) = block.get(..length) else {
        return Ok(format!("{} (no block: its length would be {length})", hex(&bytes)));
    };
    let is_text = !block.is_empty() && block.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = if is_text { format!(" {:?}", String::from_utf8_lossy(block)) } else { String::new() };
    Ok(hex(block) + &text)
}

#[cfg(test)]
mod tests {
    use embedded_hal::i2c::Operation;
    use rigd::bus::Link;

    use super::*;

    /// Answers each question with what a chip would.
    struct Chip(fn(&[u8], usize) -> Result<Vec<u8>, Error>, Vec<u8>);

    impl Link for Chip {
        fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
            for operation in operations {
                match operation {
                    Operation::Write(bytes) => self.1 = bytes.to_vec(),
                    Operation::Read(buffer) => buffer.copy_from_slice(&(self.0)(&self.1, buffer.len())?),
                }
            }
            Ok(())
        }
    }

    fn ask(form: Form, answer: fn(&[u8], usize) -> Result<Vec<u8>, Error>) -> Result<String, Error> {
        let mut device = Device::new(0x58, Box::new(Chip(answer, Vec::new())));
        read(&mut device, &Register { name: "", at: 0x08, form, formula: "" })
    }

    #[test]
    fn each_form_is_read_in_its_order() {
        let counting = |_: &[u8], length: usize| Ok((1..).take(length).collect());
        for (form, expected) in [
            (Form::U8, "0x01"),
            (Form::Be(2), "0x0102"),
            (Form::Be(3), "0x010203"),
            (Form::Le(2), "0x0201"),
            (Form::Block, "0x02"),
        ] {
            assert_eq!(ask(form, counting), Ok(expected.to_owned()), "{form:?}");
        }
    }

    #[test]
    fn a_block_is_shown_as_text_and_asked_for_shorter_where_it_must_be() {
        let name = |_: &[u8], length: usize| {
            if length > 32 {
                return Err(Error::Unsupported("read of this length"));
            }
            Ok([&[5], &b"DELTA"[..], &[0xff; 26]].concat())
        };
        assert_eq!(ask(Form::Block, name), Ok("0x44454c5441 \"DELTA\"".to_owned()));
        let ones = ask(Form::Block, |_, length| Ok(vec![0xff; length])).unwrap();
        assert!(ones.ends_with(" (no block: its length would be 255)"), "{ones}");
    }

    #[test]
    fn a_common_slot_register_is_asked_with_its_checksum() {
        let supply = |request: &[u8], _: usize| {
            assert_eq!(request, [0x08, 0x48]);
            Ok(vec![0xc0, 0x1c, 0x24])
        };
        assert_eq!(ask(Form::CommonSlot, supply), Ok("0x1cc0".to_owned()));
        let disturbed = ask(Form::CommonSlot, |_, _| Ok(vec![0xc0, 0x1c, 0x25]));
        assert_eq!(disturbed, Ok("0x1cc0 (the checksum does not fit)".to_owned()));
    }

    #[test]
    fn a_register_that_fails_does_not_hide_the_others() {
        let part = Part::find("ina226").unwrap();
        let chip = |pointer: &[u8], length: usize| {
            if pointer == [0x00] { Err(Error::NoAcknowledge) } else { Ok(vec![0x12; length]) }
        };
        let (rows, outcome) = registers(&mut Device::new(0x40, Box::new(Chip(chip, Vec::new()))), part);
        let text = table(&rows);
        assert_eq!(outcome, Ok(()));
        assert!(text.contains("Configuration    0x00  no acknowledge\n"), "{text}");
        assert!(text.contains("Bus Voltage      0x02  0x1212      U = 1.25 mV x raw\n"), "{text}");
        let facts = facts(&rows);
        assert_eq!((&facts[0]["raw"], &facts[0]["error"]), (&Value::Null, &json!("no acknowledge")));
        assert_eq!(
            facts[2],
            json!({ "register": "Bus Voltage", "at": 2, "raw": "0x1212", "error": null, "meaning": "U = 1.25 mV x raw" })
        );
        let hangs = |_: &[u8], _: usize| Err(Error::TimedOut);
        let (_, outcome) = registers(&mut Device::new(0x40, Box::new(Chip(hangs, Vec::new()))), part);
        assert_eq!(outcome, Err(Error::TimedOut));
    }
}
