//! Inflate by [ISA-L](https://github.com/intel/isa-l), which chooses its code by the processor at
//! run time.

use std::{fmt, mem::MaybeUninit, ptr};

use isal_sys::igzip_lib as c;

/// The state of one gzip member (RFC 1952), header and trailer included.
pub struct Inflate(Box<c::inflate_state>);

// SAFETY: the state's pointers are set for the length of a call and null between calls.
unsafe impl Send for Inflate {}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inflate")
    }
}

/// What one call has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes written to the output.
    pub produced: usize,
    /// The member has ended, and its checksum and length were right.
    pub finished: bool,
}

/// Why the input is no gzip member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither magic number nor method are gzip's.
    #[error("not a gzip header")]
    Header,
    /// No deflate stream (RFC 1951).
    #[error("corrupt deflate stream")]
    Stream,
    /// CRC-32 or length of the content are other than the trailer says.
    #[error("content does not have the checksum that it should")]
    Checksum,
}

impl Default for Inflate {
    fn default() -> Inflate {
        Inflate::new()
    }
}

impl Inflate {
    /// Begins a member.
    pub fn new() -> Inflate {
        let mut state = Box::new(MaybeUninit::<c::inflate_state>::zeroed());
        // SAFETY: the function initialises the state that it is given.
        unsafe { c::isal_inflate_init(state.as_mut_ptr()) };
        // SAFETY: of plain numbers and null pointers, all zeroes is a valid state, and the function
        // above has made it the one that it wants.
        let mut inflate = Inflate(unsafe { state.assume_init() });
        inflate.0.crc_flag = c::ISAL_GZIP;
        inflate
    }

    /// Begins another member.
    pub fn reset(&mut self) {
        // SAFETY: the state was initialised by `new`.
        unsafe { c::isal_inflate_reset(&mut *self.0) };
        self.0.crc_flag = c::ISAL_GZIP;
    }

    /// Goes on, as far as input and output reach. Both may be up to 4 GiB; the rest is for the next
    /// call.
    pub fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error> {
        let available = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let (taken, room) = (available(input.len()), available(output.len()));
        // ISA-L does not write through next_in; its type is C's habit.
        (self.0.next_in, self.0.avail_in) = (input.as_ptr().cast_mut(), taken);
        (self.0.next_out, self.0.avail_out) = (output.as_mut_ptr(), room);
        // SAFETY: the state is initialised, and both pointers are good for the lengths beside them
        // during the call.
        let code = unsafe { c::isal_inflate(&mut *self.0) };
        let left = (self.0.avail_in, self.0.avail_out);
        (self.0.next_in, self.0.next_out) = (ptr::null_mut(), ptr::null_mut());
        (self.0.avail_in, self.0.avail_out) = (0, 0);
        match code {
            c::ISAL_INVALID_WRAPPER | c::ISAL_UNSUPPORTED_METHOD => Err(Error::Header),
            c::ISAL_INCORRECT_CHECKSUM => Err(Error::Checksum),
            // What is left is then less than nothing: the assembler does not put its margins back.
            code if code < 0 => Err(Error::Stream),
            _ => Ok(Step {
                consumed: (taken - left.0) as usize,
                produced: (room - left.1) as usize,
                finished: self.0.block_state == c::isal_block_state_ISAL_BLOCK_FINISH,
            }),
        }
    }
}
