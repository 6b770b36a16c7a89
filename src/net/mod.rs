//! Sockets: listeners, streams of every kind, TLS, and the buffers that bytes wait in.

pub mod buffer;
pub mod connect;
pub mod dns;
pub mod listen;
pub mod pass;
pub mod stream;
pub mod tls;
pub mod x509;

pub use buffer::Buffer;
pub use stream::Stream;
