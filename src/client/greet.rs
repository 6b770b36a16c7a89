//! The first packets of a connection, up to the startup message.

use std::future::poll_fn;
use std::io;

use crate::error::{Error, SqlState};
use crate::net::buffer::write_all;
use crate::net::tls::{Acceptor, Tls};
use crate::net::{Buffer, Stream};
use crate::wire::startup::{self, Initial, Startup};

/// The first byte of a TLS handshake: a client that does not ask first.
const TLS_HANDSHAKE: u8 = 0x16;

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

/// Reads first packets until one says what the connection wants. Encryption may be asked for once of each kind: TLS is made by
/// `acceptor`, or refused with `N` where there is none and on unix sockets, as in PgBouncer; GSSAPI is refused. A client may also begin
/// with TLS at once, as since PostgreSQL 17.
///
/// The stream is taken out of `slot` during the handshake, and stays out when that fails: nothing can be told to such a client.
///
/// # Errors
/// Of the socket (outer), or to be told to the client (inner).
pub async fn greet(
    slot: &mut Option<Stream>,
    input: &mut Buffer,
    acceptor: Option<&Acceptor>,
) -> io::Result<Result<Greeting, Error>> {
    let (mut ssl, mut gss) = (false, false);
    let acceptor = acceptor.filter(|_| slot.as_ref().is_some_and(Stream::is_remote));
    if let Some(acceptor) = acceptor
        && first_byte(here(slot)?, input).await? == Some(TLS_HANDSHAKE)
    {
        encrypt(slot, &std::mem::take(input), acceptor).await?;
        if !here(slot)?.tls().is_some_and(Tls::is_alpn_agreed) {
            let why = "received direct SSL connection request without ALPN protocol negotiation extension";
            return Ok(Err(Error::client_fatal(SqlState::PROTOCOL_VIOLATION, why)));
        }
        (ssl, gss) = (true, true);
    }
    loop {
        let packet = match packet(here(slot)?, input).await? {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(Ok(Greeting::Nothing)),
            Err(error) => return Ok(Err(error)),
        };
        let (asked_again, acceptor) = match startup::parse(&packet) {
            Err(error) => return Ok(Err(error)),
            Ok(Initial::Ssl) => (std::mem::replace(&mut ssl, true), acceptor),
            Ok(Initial::GssEnc) => (std::mem::replace(&mut gss, true), None),
            Ok(Initial::Cancel { pid, secret }) => return Ok(Ok(Greeting::Cancel { pid, secret })),
            Ok(Initial::Startup(startup)) => return Ok(Ok(Greeting::Startup(startup))),
        };
        if asked_again {
            return Ok(Err(Error::client_fatal(SqlState::PROTOCOL_VIOLATION, "encryption was asked for twice")));
        }
        let Some(acceptor) = acceptor else {
            write_all(here(slot)?, b"N").await?;
            continue;
        };
        // Taken for what was sent encrypted, these bytes could be anybody's: CVE-2021-23214.
        if !input.is_empty() {
            let error =
                Error::client_fatal(SqlState::PROTOCOL_VIOLATION, "received unencrypted data after SSL request");
            return Ok(Err(error.detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            )));
        }
        write_all(here(slot)?, b"S").await?;
        encrypt(slot, &Buffer::default(), acceptor).await?;
        gss = true;
    }
}

fn here(slot: &mut Option<Stream>) -> io::Result<&mut Stream> {
    slot.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// The first byte that the client sends, left in `input`; none if it leaves.
async fn first_byte(stream: &mut Stream, input: &mut Buffer) -> io::Result<Option<u8>> {
    if input.is_empty() {
        poll_fn(|cx| input.poll_fill(stream, cx)).await?;
    }
    Ok(input.bytes().first().copied())
}

/// The next first packet, whole; none if the client leaves.
async fn packet(stream: &mut Stream, input: &mut Buffer) -> io::Result<Result<Option<Vec<u8>>, Error>> {
    loop {
        match startup::packet_len(input.bytes()) {
            Err(error) => return Ok(Err(error)),
            Ok(Some(len)) if input.len() >= len => {
                let packet = input.bytes().get(..len).unwrap_or_default().to_vec();
                input.consume(len);
                return Ok(Ok(Some(packet)));
            }
            Ok(_) => {}
        }
        if poll_fn(|cx| input.poll_fill(stream, cx)).await? == 0 {
            return Ok(Ok(None));
        }
    }
}

/// Puts TLS over the stream. `already` was read of the handshake.
async fn encrypt(slot: &mut Option<Stream>, already: &Buffer, acceptor: &Acceptor) -> io::Result<()> {
    let stream = slot.take().ok_or(io::ErrorKind::NotConnected)?;
    let peer = stream.addresses().map(|a| a.0);
    match acceptor.accept(stream, already.bytes()).await {
        Ok(stream) => {
            *slot = Some(stream);
            Ok(())
        }
        Err(error) => {
            tracing::info!(peer = peer.map(tracing::field::display), %error, "no TLS with a client: the handshake failed");
            Err(error)
        }
    }
}
