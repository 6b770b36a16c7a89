//! Sockets: listeners, streams of either kind, and the buffers that bytes wait in.

pub mod buffer;
pub mod listen;
pub mod stream;

pub use buffer::Buffer;
pub use stream::Stream;
