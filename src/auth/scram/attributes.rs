//! Reading the `a=value,b=value` lists of which SCRAM messages are made.

use super::{MAX_MESSAGE, ScramError};

/// What is left of a message to read. Values are handed out as they are, undecoded.
pub(super) struct Attributes<'a> {
    /// None once the last attribute is taken; a trailing comma leaves an empty rest, which is an error.
    rest: Option<&'a [u8]>,
}

/// Refuses what no SCRAM message may be: too long, empty, or with a NUL byte in it.
///
/// # Errors
/// [`ScramError::Malformed`].
pub(super) fn check(message: &[u8]) -> Result<(), ScramError> {
    if message.is_empty() {
        return Err(ScramError::Malformed("the message is empty"));
    }
    if message.len() > MAX_MESSAGE {
        return Err(ScramError::Malformed("the message is too long"));
    }
    if message.contains(&0) {
        return Err(ScramError::Malformed("the message contains a NUL byte"));
    }
    Ok(())
}

impl<'a> Attributes<'a> {
    pub(super) fn new(list: &'a [u8]) -> Self {
        Self { rest: Some(list) }
    }

    /// The next attribute: its letter and value; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, ScramError> {
        let Some(rest) = self.rest else { return Ok(None) };
        let [name, b'=', tail @ ..] = rest else {
            return Err(ScramError::Malformed("an attribute letter and \"=\" were expected"));
        };
        if !name.is_ascii_alphabetic() {
            return Err(ScramError::Malformed("an attribute's name must be a letter"));
        }
        let mut halves = tail.splitn(2, |byte| *byte == b',');
        let value = halves.next().unwrap_or_default();
        self.rest = halves.next();
        Ok(Some((*name, value)))
    }

    /// The next attribute, which must be `name`.
    pub(super) fn expect(&mut self, name: u8) -> Result<&'a [u8], ScramError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            // RFC 5802, section 5.1: an extension that the peer must understand or fail.
            Some((b'm', _)) => Err(ScramError::Unsupported("the peer requires an extension")),
            Some(_) => Err(ScramError::Malformed("an unexpected attribute was found")),
            None => Err(ScramError::Malformed("an attribute is missing")),
        }
    }

    /// Fails unless all is read.
    pub(super) fn end(&mut self) -> Result<(), ScramError> {
        match self.rest {
            None => Ok(()),
            Some(_) => Err(ScramError::Malformed("garbage was found at the end of the message")),
        }
    }
}

/// Checks a nonce: printable ASCII without commas, at least one character.
pub(super) fn nonce(value: &[u8]) -> Result<&[u8], ScramError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_graphic) {
        return Err(ScramError::Malformed("the nonce must be made of printable characters"));
    }
    Ok(value)
}
