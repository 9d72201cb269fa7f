//! The chunked coding (RFC 9112 §7.1), taken apart byte by byte and put together anew.
//!
//! Chunk boundaries of one side never reach the other: what came in one chunk may leave in two.
//! Extensions are checked, counted and dropped: no server needs them, and parsers that differ on
//! them are a known way to smuggle. The trailer section is parsed like a head.

use super::body::Step;
use super::scan::{Leading, Scanner};
use super::{Reject, Trailers, trailer};

/// Longest extension of one chunk, in bytes from `;` to the line end.
pub const EXTENSION_BYTES_MAX: usize = 256;

/// Most extension bytes in one body: a peer cannot make us read them without end.
pub const EXTENSION_BYTES_TOTAL_MAX: usize = 16_384;

/// Most digits of a chunk size, leading zeros included: 16 fill 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

#[derive(Debug, Clone, Copy)]
enum State {
    /// In the digits of a size; none seen yet where `digits` is 0.
    Size { digits: u8, size: u64 },
    /// After `;`, up to CR.
    Extension { size: u64, bytes: usize },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// Inside data, this many bytes missing.
    Data { left: u64 },
    /// After the last byte of data.
    DataCr,
    /// After the CR behind data.
    DataLf,
    /// In the trailer section; its bytes stay in the caller's buffer until it is whole.
    Trailers(Scanner),
    /// The body is complete.
    Done,
}

/// Incremental decoder of one chunked body.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    extension_bytes: usize,
    trailers: Trailers,
    /// What broke it: nothing behind that can be trusted to be where it seems.
    broken: Option<Reject>,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        ChunkDecoder {
            state: State::Size { digits: 0, size: 0 },
            extension_bytes: 0,
            trailers: Trailers::default(),
            broken: None,
        }
    }
}

impl ChunkDecoder {
    /// Looks at `input`, which begins where the previous step ended; see [`Step`].
    ///
    /// # Errors
    /// Any departure from the grammar, and the limits above and those of a head for trailers.
    /// An error is final: every later step returns it again.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Reject> {
        if let Some(reject) = self.broken {
            return Err(reject);
        }
        let step = self.read(input);
        self.broken = step.as_ref().err().copied();
        step
    }

    fn read(&mut self, input: &[u8]) -> Result<Step, Reject> {
        let mut at = 0;
        loop {
            if let State::Trailers(scanner) = &mut self.state {
                let rest = input.get(at..).unwrap_or_default();
                let Some(section) = scanner.scan(rest)? else {
                    return Ok(Step {
                        skip: at,
                        data: 0,
                        done: false,
                    });
                };
                let raw = rest.get(..section.len).unwrap_or_default();
                self.trailers = trailer::parse(raw)?;
                self.state = State::Done;
                return Ok(Step {
                    skip: at + section.len,
                    data: 0,
                    done: true,
                });
            }
            if matches!(self.state, State::Done) {
                return Ok(Step {
                    skip: at,
                    data: 0,
                    done: true,
                });
            }
            let Some(&byte) = input.get(at) else {
                return Ok(Step {
                    skip: at,
                    data: 0,
                    done: false,
                });
            };
            if let State::Data { left } = self.state {
                let there = input.len() - at;
                let data = usize::try_from(left).map_or(there, |left| left.min(there));
                let left = left - u64::try_from(data).unwrap_or(left);
                self.state = if left == 0 {
                    State::DataCr
                } else {
                    State::Data { left }
                };
                return Ok(Step {
                    skip: at,
                    data,
                    done: false,
                });
            }
            self.state = self.advance(byte)?;
            at += 1;
        }
    }

    /// The transition on one byte of framing.
    fn advance(&mut self, byte: u8) -> Result<State, Reject> {
        match (self.state, byte) {
            (State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(Reject::BadChunkSize);
                }
                Ok(State::Size {
                    digits: digits + 1,
                    size: size << 4 | hex_value(byte),
                })
            }
            (State::Size { digits: 1.., size }, b';') => Ok(State::Extension { size, bytes: 0 }),
            (State::Size { digits: 1.., size }, b'\r') => Ok(State::SizeLf { size }),
            (State::Size { .. }, b'\n') => Err(Reject::BareLf),
            (State::Size { .. }, _) => Err(Reject::BadChunkSize),
            (State::Extension { size, .. }, b'\r') => Ok(State::SizeLf { size }),
            (State::Extension { .. }, b'\n') => Err(Reject::BareLf),
            (State::Extension { size, bytes }, _) => {
                self.extension_bytes += 1;
                if !super::field::is_value(byte) {
                    Err(Reject::BadChunkExtension)
                } else if bytes == EXTENSION_BYTES_MAX
                    || self.extension_bytes > EXTENSION_BYTES_TOTAL_MAX
                {
                    Err(Reject::ChunkExtensionTooLong)
                } else {
                    Ok(State::Extension {
                        size,
                        bytes: bytes + 1,
                    })
                }
            }
            (State::SizeLf { size: 0 }, b'\n') => {
                Ok(State::Trailers(Scanner::new(Leading::FieldsOnly)))
            }
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::SizeLf { .. }, _) => Err(Reject::BareCr),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0, size: 0 }),
            (State::DataCr | State::DataLf, _) => Err(Reject::BadChunkEnd),
            // Handled by `step`, which never comes here with them.
            (State::Data { .. } | State::Trailers(_) | State::Done, _) => Ok(self.state),
        }
    }

    /// The trailers, once the body is complete; empty before and after that.
    pub fn take_trailers(&mut self) -> Trailers {
        std::mem::take(&mut self.trailers)
    }
}

fn hex_value(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10) & 0xf,
    })
}

/// Ends the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The size line of a chunk of `len` bytes. `len` is not 0: that would end the body.
pub fn put_size(len: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    debug_assert!(len > 0, "a chunk of no bytes ends the body");
    let mut line = [0_u8; 16];
    let mut start = line.len();
    let mut left = len;
    while left > 0 && start > 0 {
        start -= 1;
        line[start] = DIGITS[left & 0xf];
        left >>= 4;
    }
    out.extend_from_slice(&line[start..]);
    out.extend_from_slice(b"\r\n");
}

/// The last chunk, the trailers and the empty line.
pub fn put_end(trailers: &Trailers, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers.as_bytes());
    out.extend_from_slice(b"\r\n");
}
