//! The prober (being written).
