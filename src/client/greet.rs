//! The first packets of a connection, up to the startup message.

use std::future::poll_fn;
use std::io;

use crate::error::{Error, SqlState};
use crate::net::{Buffer, Stream};
use crate::server::connection::write_all;
use crate::wire::startup::{self, Initial, Startup};

/// What a connection turned out to want.
#[derive(Debug)]
pub enum Greeting {
    /// A session.
    Startup(Startup),
    /// To cancel another's statement.
    Cancel {
        /// Whose: the process id.
        pid: u32,
        /// What proves the right to.
        secret: Vec<u8>,
    },
    /// Nothing: it left, or only looked whether someone is there.
    Nothing,
}

/// Reads first packets until one says what the connection wants. TLS and GSSAPI encryption are answered with `N`, each once at most,
/// as PostgreSQL does; TLS will be negotiated here.
///
/// # Errors
/// Of the socket (outer), or to be told to the client (inner).
pub async fn greet(stream: &mut Stream, input: &mut Buffer) -> io::Result<Result<Greeting, Error>> {
    let (mut ssl, mut gss) = (false, false);
    loop {
        let packet = loop {
            match startup::packet_len(input.bytes()) {
                Err(error) => return Ok(Err(error)),
                Ok(Some(len)) if input.len() >= len => {
                    let packet = input.bytes().get(..len).unwrap_or_default().to_vec();
                    input.consume(len);
                    break packet;
                }
                Ok(_) => {}
            }
            if poll_fn(|cx| input.poll_fill(stream, cx)).await? == 0 {
                return Ok(Ok(Greeting::Nothing));
            }
        };
        let asked_again = match startup::parse(&packet) {
            Err(error) => return Ok(Err(error)),
            Ok(Initial::Ssl) => std::mem::replace(&mut ssl, true),
            Ok(Initial::GssEnc) => std::mem::replace(&mut gss, true),
            Ok(Initial::Cancel { pid, secret }) => return Ok(Ok(Greeting::Cancel { pid, secret })),
            Ok(Initial::Startup(startup)) => return Ok(Ok(Greeting::Startup(startup))),
        };
        if asked_again {
            return Ok(Err(Error::client_fatal(SqlState::PROTOCOL_VIOLATION, "encryption was asked for twice")));
        }
        write_all(stream, b"N").await?;
    }
}
