//! Frames: one byte of type, four bytes of length that count themselves, the body.

use std::fmt;

/// Bytes before the body: type and length.
pub const HEADER_LEN: usize = 5;

/// Where a frame begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub tag: u8,
    /// Length of the whole frame in bytes, type byte included: at least [`HEADER_LEN`].
    pub len: usize,
}

/// A frame that no peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The length is less than the four bytes that it counts itself.
    TooShort {
        /// The message type.
        tag: u8,
        /// The length it claims.
        len: u32,
    },
    /// The length is above the limit.
    TooLong {
        /// The message type.
        tag: u8,
        /// The length it claims.
        len: u32,
        /// The limit.
        max: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { tag, len } => {
                write!(f, "message of type {:?} has the impossible length {len}", char::from(*tag))
            }
            Self::TooLong { tag, len, max } => {
                write!(f, "message of type {:?} has {len} bytes, the limit is {max}", char::from(*tag))
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Reads the header of the frame at the start of `bytes`; `None` while fewer than [`HEADER_LEN`] bytes are there.
///
/// # Errors
/// When the length is impossible or above `max` bytes.
pub fn peek(bytes: &[u8], max: usize) -> Result<Option<Header>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]);
    if len < 4 {
        return Err(FrameError::TooShort { tag, len });
    }
    match usize::try_from(len).ok().and_then(|l| l.checked_add(1)) {
        Some(whole) if whole <= max => Ok(Some(Header { tag, len: whole })),
        _ => Err(FrameError::TooLong { tag, len, max }),
    }
}

/// A frame that is whole in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message type.
    pub tag: u8,
    /// The whole frame, header included.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The body, without type and length.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

/// Takes the frame at the start of `bytes` when it is whole.
///
/// # Errors
/// As [`peek`].
pub fn next(bytes: &[u8], max: usize) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(header) = peek(bytes, max)? else { return Ok(None) };
    Ok(bytes.get(..header.len).map(|bytes| Frame { tag: header.tag, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Ok(Some(f)) = next(bytes, 1 << 20) {
            frames.push(f.bytes.to_vec());
            bytes = &bytes[f.bytes.len()..];
        }
        frames
    }

    /// CVE class: lengths that overflow.
    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(peek(&[b'Q', 0, 0, 0, 3], 100), Err(FrameError::TooShort { tag: b'Q', len: 3 }));
        assert_eq!(
            peek(&[b'Q', 0xff, 0xff, 0xff, 0xff], 100),
            Err(FrameError::TooLong { tag: b'Q', len: u32::MAX, max: 100 })
        );
        assert_eq!(peek(&[b'S', 0, 0, 0, 4], 5), Ok(Some(Header { tag: b'S', len: 5 })));
        assert_eq!(peek(b"Q\0\0\0", 100), Ok(None));
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_frames(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for (tag, body) in &bodies {
                stream.push(*tag);
                stream.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
                stream.extend_from_slice(body);
            }
            let whole = all(&stream);
            prop_assert_eq!(whole.len(), bodies.len());
            let cut = if stream.is_empty() { 0 } else { cut.index(stream.len()) };
            let mut first = all(&stream[..cut]);
            let taken: usize = first.iter().map(Vec::len).sum();
            first.extend(all(&stream[taken..]));
            prop_assert_eq!(first, whole);
        }

        #[test]
        fn any_bytes_are_a_frame_an_error_or_unfinished(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(frame)) = next(&bytes, 1 << 16) {
                prop_assert!(frame.bytes.len() <= bytes.len());
                prop_assert_eq!(frame.body().len() + HEADER_LEN, frame.bytes.len());
            }
        }
    }
}
