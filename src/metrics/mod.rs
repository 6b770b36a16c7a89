//! What pgweir knows about itself, and how it tells Prometheus and whoever asks after its health.
//!
//! `counters` is what the data path bumps; `snapshot` is a picture of the whole process at one moment, taken from the
//! counters and the ledgers, `report` what a client adds to it when it is asked; `averages` keeps the figures that the console shows per `stats_period`; `families` writes a
//! snapshot as Prometheus text and `http` serves it. The console (`admin`) reads the same snapshots.

pub mod averages;
pub mod counters;
pub mod describe;
pub mod families;
pub mod http;
pub mod report;
pub mod snapshot;

#[cfg(test)]
pub(crate) mod example;
