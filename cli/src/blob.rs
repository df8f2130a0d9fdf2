//! Aggregated records as raw bytes or as text, for `encode` and `decode`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The format of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Raw bytes
    Raw,
    /// Two hexadecimal digits per byte
    Hex,
    /// As the AWS CLI prints data
    Base64,
}

impl Format {
    /// Returns the blob in this format. Text ends in a newline.
    pub(crate) fn write(self, blob: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Raw => blob,
            Self::Hex => {
                let digits = |byte: u8| [byte >> 4, byte & 15].map(|n| b"0123456789abcdef"[usize::from(n)]);
                blob.into_iter().flat_map(digits).chain([b'\n']).collect()
            }
            Self::Base64 => (STANDARD.encode(blob) + "\n").into_bytes(),
        }
    }

    /// Parses a blob. White space in text is ignored.
    ///
    /// # Errors
    ///
    /// A message with the byte offset in the input.
    pub(crate) fn read(self, input: Vec<u8>) -> Result<Vec<u8>, String> {
        match self {
            Self::Raw => Ok(input),
            Self::Hex => read_hex(&input),
            Self::Base64 => read_base64(&input),
        }
    }
}

fn read_hex(input: &[u8]) -> Result<Vec<u8>, String> {
    let mut blob = Vec::with_capacity(input.len() / 2);
    let mut high = None;
    for (offset, byte) in input.iter().copied().enumerate().filter(|(_, byte)| !byte.is_ascii_whitespace()) {
        let digit = char::from(byte).to_digit(16);
        let digit = digit.ok_or_else(|| format!("at byte {offset} of the input: {} is not a hex digit", show(byte)))?;
        match high.take() {
            None => high = Some(digit),
            Some(high) => blob.push((high << 4 | digit) as u8),
        }
    }
    match high {
        None => Ok(blob),
        Some(_) => {
            Err(format!("at byte {}, the end of the input: the second hex digit of a byte is missing", input.len()))
        }
    }
}

fn read_base64(input: &[u8]) -> Result<Vec<u8>, String> {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    let text: Vec<u8> = input.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    // The decoder does not count white space, but the offset in the message does.
    let offset_of = |at: usize| {
        let mut offsets = input.iter().enumerate().filter(|(_, byte)| !byte.is_ascii_whitespace());
        offsets.nth(at).map_or(input.len(), |(offset, _)| offset)
    };
    STANDARD.decode(&text).map_err(|error| match error {
        InvalidByte(at, b'=') => format!("at byte {} of the input: base64 padding in a wrong place", offset_of(at)),
        InvalidByte(at, byte) => format!("at byte {} of the input: {} is not base64", offset_of(at), show(byte)),
        InvalidLastSymbol(at, byte) => {
            format!("at byte {} of the input: {} cannot be the last character of base64", offset_of(at), show(byte))
        }
        InvalidLength(_) | InvalidPadding => {
            format!("at byte {}, the end of the input: base64 ends within a group of four characters", input.len())
        }
    })
}

/// Returns a printable form of a byte.
fn show(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("{:?}", char::from(byte)) } else { format!("byte 0x{byte:02X}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_round_trips() {
        let blob: Vec<u8> = (0..=255).collect();
        for format in [Format::Raw, Format::Hex, Format::Base64] {
            let written = format.write(blob.clone());
            assert_eq!(format.read(written).unwrap(), blob);
        }
        assert_eq!(Format::Hex.write(vec![0x0A, 0xF3]), b"0af3\n");
        assert_eq!(Format::Hex.read(b" 0A\nf 3\n".to_vec()).unwrap(), [0x0A, 0xF3]);
    }

    #[test]
    fn errors_name_the_byte_of_the_input() {
        let hex = |input: &str| Format::Hex.read(input.into()).unwrap_err();
        assert_eq!(hex("0g"), "at byte 1 of the input: 'g' is not a hex digit");
        assert_eq!(hex("00 0"), "at byte 4, the end of the input: the second hex digit of a byte is missing");
        let base64 = |input: &[u8]| Format::Base64.read(input.into()).unwrap_err();
        assert_eq!(base64(b"AA\nA*"), "at byte 4 of the input: '*' is not base64");
        assert_eq!(base64(b"AA\xffA"), "at byte 2 of the input: byte 0xFF is not base64");
        assert_eq!(base64(b"AAA"), "at byte 3, the end of the input: base64 ends within a group of four characters");
        assert_eq!(base64(b"AB=="), "at byte 1 of the input: 'B' cannot be the last character of base64");
    }
}
